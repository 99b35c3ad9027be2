//! The one table of roles and permissions.

use stagesub_domain::role::Role;

/// Something that a role may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Read an orchestra's musicians, instruments, projects and profile.
    ReadOrchestra,
    /// Create, change, archive and delete them.
    EditOrchestra,
    /// Bring musicians in from a file.
    ImportMusicians,
    /// Change an orchestra's settings; see who its people are, add them, change their roles, remove them.
    ManageOrchestra,
    /// Read an orchestra's audit log.
    ReadAudit,
    /// Create, change, suspend and resume orchestras.
    ManageTenants,
    /// Create people, set their passwords, disable and enable them.
    ManageUsers,
    /// Register and look after databases.
    ManageDatabases,
    /// Read the platform's audit log.
    ReadPlatformAudit,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 9] = [
        Self::ReadOrchestra,
        Self::EditOrchestra,
        Self::ImportMusicians,
        Self::ManageOrchestra,
        Self::ReadAudit,
        Self::ManageTenants,
        Self::ManageUsers,
        Self::ManageDatabases,
        Self::ReadPlatformAudit,
    ];
}

/// Whether a role allows it.
///
/// An orchestra's roles reach that orchestra alone and a superadmin reaches the platform alone: running the
/// platform gives no look into an orchestra.
///
/// # Errors
/// [`Forbidden`] when the role does not allow it.
pub fn authorize(role: Role, permission: Permission) -> Result<(), Forbidden> {
    use Permission as P;
    use Role::{Admin, Superadmin, User, Viewer};
    // Both types are listed whole, so a new role or permission does not compile until it is decided here.
    let allowed = match (permission, role) {
        (P::ReadOrchestra, Viewer | User | Admin)
        | (P::EditOrchestra | P::ImportMusicians, User | Admin)
        | (P::ManageOrchestra | P::ReadAudit, Admin)
        | (P::ManageTenants | P::ManageUsers | P::ManageDatabases | P::ReadPlatformAudit, Superadmin) => true,
        (P::ReadOrchestra, Superadmin)
        | (P::EditOrchestra | P::ImportMusicians, Superadmin | Viewer)
        | (P::ManageOrchestra | P::ReadAudit, Superadmin | User | Viewer)
        | (
            P::ManageTenants | P::ManageUsers | P::ManageDatabases | P::ReadPlatformAudit,
            Admin | User | Viewer,
        ) => false,
    };
    if allowed { Ok(()) } else { Err(Forbidden { role, permission }) }
}

/// The role does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role {} does not allow {permission:?}", role.as_str())]
pub struct Forbidden {
    /// The role.
    pub role: Role,
    /// What was wanted.
    pub permission: Permission,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(role: Role) -> Vec<Permission> {
        Permission::ALL.into_iter().filter(|permission| authorize(role, *permission).is_ok()).collect()
    }

    #[test]
    fn viewer_reads() {
        assert_eq!(allowed(Role::Viewer), [Permission::ReadOrchestra]);
    }

    #[test]
    fn user_reads_and_edits() {
        assert_eq!(
            allowed(Role::User),
            [Permission::ReadOrchestra, Permission::EditOrchestra, Permission::ImportMusicians]
        );
    }

    #[test]
    fn admin_does_everything_within_the_orchestra() {
        assert_eq!(
            allowed(Role::Admin),
            [
                Permission::ReadOrchestra,
                Permission::EditOrchestra,
                Permission::ImportMusicians,
                Permission::ManageOrchestra,
                Permission::ReadAudit,
            ]
        );
    }

    #[test]
    fn superadmin_does_everything_on_the_platform_and_nothing_in_an_orchestra() {
        assert_eq!(
            allowed(Role::Superadmin),
            [
                Permission::ManageTenants,
                Permission::ManageUsers,
                Permission::ManageDatabases,
                Permission::ReadPlatformAudit,
            ]
        );
    }

    #[test]
    fn refusal_says_role_and_permission() {
        let refused = authorize(Role::Viewer, Permission::EditOrchestra).unwrap_err();
        assert_eq!(refused, Forbidden { role: Role::Viewer, permission: Permission::EditOrchestra });
        assert_eq!(refused.to_string(), "the role viewer does not allow EditOrchestra");
    }
}
