//! From a bearer token to who asks and what they are now.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use stagesub_domain::actor::Identity;
use stagesub_domain::error::StoreError;
use stagesub_domain::role::Role;
use stagesub_tenancy::{BoxError, TenantId};
use uuid::Uuid;

use crate::ports::{Authority, AuthorityStore};
use crate::token::{AccessTokens, Claims, TokenError, check_tenant};

/// Checks access tokens against what their holders may do now.
pub struct Authenticator {
    tokens: Arc<AccessTokens>,
    authority: Arc<dyn AuthorityStore>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// A person whose token is good, and what they are here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authenticated {
    /// The person.
    pub user: Uuid,
    /// What they are here: as the store says now, not as the token said.
    pub role: Role,
    /// In which tenant; `None` on the platform.
    pub tenant: Option<TenantId>,
}

impl Authenticated {
    /// The person as the audit log knows them.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match self.role {
            Role::Superadmin => Identity::Superadmin { user: self.user },
            role @ (Role::Admin | Role::User | Role::Viewer) => Identity::User { user: self.user, role },
        }
    }
}

impl Authenticator {
    /// Checks tokens with `tokens` and authority in `authority`.
    #[must_use]
    pub fn new(tokens: Arc<AccessTokens>, authority: Arc<dyn AuthorityStore>) -> Self {
        Self { tokens, authority }
    }

    /// Says who holds `token` and what they are in `tenant` now, or on the platform when `None`.
    ///
    /// # Errors
    /// [`AuthenticateError::Expired`] and [`AuthenticateError::Invalid`] for the token itself,
    /// [`AuthenticateError::OtherTenant`] when it was made on another host, [`AuthenticateError::Revoked`]
    /// when the account, the membership or their version is no longer what it was, and
    /// [`AuthenticateError::Store`] when that could not be looked up.
    pub async fn authenticate(
        &self,
        token: &str,
        tenant: Option<TenantId>,
        now: DateTime<Utc>,
    ) -> Result<Authenticated, AuthenticateError> {
        let claims = self.tokens.verify(token, now)?;
        check_tenant(&claims, tenant)?;
        let current = self
            .current(&claims, tenant)
            .await
            .map_err(AuthenticateError::Store)?
            .filter(|current| current.user == claims.user && current.is_active)
            .filter(|current| current.auth_epoch == claims.auth_epoch)
            .ok_or(AuthenticateError::Revoked)?;
        let role = role_at(tenant, current.is_superadmin, current.role).ok_or(AuthenticateError::Revoked)?;
        Ok(Authenticated { user: current.user, role, tenant })
    }

    async fn current(
        &self,
        claims: &Claims,
        tenant: Option<TenantId>,
    ) -> Result<Option<Authority>, StoreError> {
        let known = self.authority.find_authority(claims.user, tenant).await?;
        // A token that is ahead of what this node remembers was made after a change the node has yet to hear
        // of: whoever signs in again after a new password is not turned away until it does.
        if known.is_some_and(|known| known.auth_epoch < claims.auth_epoch) {
            return self.authority.find_current_authority(claims.user, tenant).await;
        }
        Ok(known)
    }
}

/// What a person is at a host: on a tenant's the membership decides, on the platform's only whether they run
/// it. A membership never makes a superadmin, and a superadmin without one is nobody in a tenant.
pub(crate) fn role_at(
    tenant: Option<TenantId>,
    is_superadmin: bool,
    membership: Option<Role>,
) -> Option<Role> {
    match tenant {
        Some(_) => membership.filter(|role| *role != Role::Superadmin),
        None => is_superadmin.then_some(Role::Superadmin),
    }
}

/// A token was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// It was good and has ended: sign in again.
    #[error("the access token has expired")]
    Expired,
    /// It is not one of ours, or not whole.
    #[error("the access token is invalid")]
    Invalid(#[source] BoxError),
    /// It was made on another host.
    #[error("the access token is for another host")]
    OtherTenant,
    /// Its holder's account, membership or password is not what it was when it was made.
    #[error("the access token was revoked")]
    Revoked,
    /// What the holder may do now could not be looked up.
    #[error("the holder's authority could not be looked up")]
    Store(#[source] StoreError),
}

impl From<TokenError> for AuthenticateError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::Expired,
            TokenError::OtherTenant => Self::OtherTenant,
            TokenError::Invalid(source) | TokenError::Unsigned(source) => Self::Invalid(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use mockall::predicate::eq;
    use secrecy::SecretString;

    use super::*;
    use crate::ports::{AuthEpoch, MockAuthorityStore};
    use crate::token::TokenSubject;

    const USER: Uuid = Uuid::from_u128(0x11);
    const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(0x22));
    const OTHER: TenantId = TenantId::from_uuid(Uuid::from_u128(0x33));

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn tokens() -> Arc<AccessTokens> {
        Arc::new(AccessTokens::new(&SecretString::from("x".repeat(32)), "stagesub.test").unwrap())
    }

    fn token(tenant: Option<TenantId>, role: Role) -> String {
        tokens().issue(TokenSubject { user: USER, tenant, role, auth_epoch: AuthEpoch(3) }, now()).unwrap()
    }

    fn authority(role: Option<Role>) -> Authority {
        Authority { user: USER, is_active: true, is_superadmin: false, role, auth_epoch: AuthEpoch(3) }
    }

    /// Asks with a token of `role` made for `tenant`, while the store says `current`.
    async fn ask(
        tenant: Option<TenantId>,
        role: Role,
        current: Option<Authority>,
    ) -> Result<Authenticated, AuthenticateError> {
        let mut store = MockAuthorityStore::new();
        store.expect_find_authority().with(eq(USER), eq(tenant)).once().return_once(move |_, _| Ok(current));
        let authenticator = Authenticator::new(tokens(), Arc::new(store));
        authenticator.authenticate(&token(tenant, role), tenant, now()).await
    }

    /// Asks where the store must not be asked at all.
    async fn ask_in_vain(token: &str, tenant: Option<TenantId>, now: DateTime<Utc>) -> AuthenticateError {
        let authenticator = Authenticator::new(tokens(), Arc::new(MockAuthorityStore::new()));
        authenticator.authenticate(token, tenant, now).await.unwrap_err()
    }

    #[tokio::test]
    async fn member_is_who_the_store_says_now() {
        let asked = ask(Some(TENANT), Role::Admin, Some(authority(Some(Role::Viewer)))).await.unwrap();
        assert_eq!(asked, Authenticated { user: USER, role: Role::Viewer, tenant: Some(TENANT) });
        assert_eq!(asked.identity(), Identity::User { user: USER, role: Role::Viewer });
    }

    #[tokio::test]
    async fn superadmin_is_one_on_the_platform() {
        let current = Authority { is_superadmin: true, ..authority(None) };
        let asked = ask(None, Role::Superadmin, Some(current)).await.unwrap();
        assert_eq!(asked.identity(), Identity::Superadmin { user: USER });
    }

    #[tokio::test]
    async fn superadmin_in_a_tenant_is_only_what_the_membership_says() {
        let member = Authority { is_superadmin: true, ..authority(Some(Role::Viewer)) };
        let asked = ask(Some(TENANT), Role::Viewer, Some(member)).await.unwrap();
        assert_eq!(asked.role, Role::Viewer);
        let stranger = Authority { is_superadmin: true, ..authority(None) };
        let refused = ask(Some(TENANT), Role::Admin, Some(stranger)).await;
        assert!(matches!(refused, Err(AuthenticateError::Revoked)));
    }

    #[tokio::test]
    async fn changed_authority_revokes_the_token() {
        let member = authority(Some(Role::User));
        for current in [
            None,
            Some(Authority { is_active: false, ..member }),
            Some(Authority { auth_epoch: AuthEpoch(4), ..member }),
            Some(Authority { role: None, ..member }),
            Some(Authority { role: Some(Role::Superadmin), ..member }),
            Some(Authority { user: Uuid::from_u128(0x99), ..member }),
        ] {
            let refused = ask(Some(TENANT), Role::User, current).await;
            assert!(matches!(refused, Err(AuthenticateError::Revoked)), "{current:?}");
        }
        let no_longer = ask(None, Role::Superadmin, Some(authority(Some(Role::Admin)))).await;
        assert!(matches!(no_longer, Err(AuthenticateError::Revoked)));
    }

    /// Asks with a token of version 3, while the store remembers version 2 and is really at `current`.
    async fn ask_ahead_of_memory(current: AuthEpoch) -> Result<Authenticated, AuthenticateError> {
        let member = authority(Some(Role::User));
        let mut store = MockAuthorityStore::new();
        store
            .expect_find_authority()
            .once()
            .return_once(move |_, _| Ok(Some(Authority { auth_epoch: AuthEpoch(2), ..member })));
        store
            .expect_find_current_authority()
            .with(eq(USER), eq(Some(TENANT)))
            .once()
            .return_once(move |_, _| Ok(Some(Authority { auth_epoch: current, ..member })));
        let authenticator = Authenticator::new(tokens(), Arc::new(store));
        authenticator.authenticate(&token(Some(TENANT), Role::User), Some(TENANT), now()).await
    }

    #[tokio::test]
    async fn token_that_is_ahead_of_memory_is_checked_against_the_store() {
        assert!(ask_ahead_of_memory(AuthEpoch(3)).await.is_ok());
        for current in [AuthEpoch(2), AuthEpoch(4)] {
            let refused = ask_ahead_of_memory(current).await;
            assert!(matches!(refused, Err(AuthenticateError::Revoked)), "{current:?}");
        }
    }

    #[tokio::test]
    async fn token_of_another_host_is_refused_before_the_store_is_asked() {
        let member = token(Some(TENANT), Role::Admin);
        for tenant in [Some(OTHER), None] {
            let refused = ask_in_vain(&member, tenant, now()).await;
            assert!(matches!(refused, AuthenticateError::OtherTenant));
        }
        let refused = ask_in_vain(&token(None, Role::Superadmin), Some(TENANT), now()).await;
        assert!(matches!(refused, AuthenticateError::OtherTenant));
    }

    #[tokio::test]
    async fn a_token_that_was_good_before_is_refused_once_it_is_not() {
        let member = authority(Some(Role::User));
        let mut store = MockAuthorityStore::new();
        let (mut epochs, user) = ([3, 3, 4].into_iter(), member);
        store.expect_find_authority().times(3).returning(move |_, _| {
            let auth_epoch = AuthEpoch(epochs.next().expect("three times"));
            Ok(Some(Authority { auth_epoch, ..user }))
        });
        let authenticator = Authenticator::new(tokens(), Arc::new(store));
        let token = token(Some(TENANT), Role::User);
        for _ in 0..2 {
            assert!(authenticator.authenticate(&token, Some(TENANT), now()).await.is_ok());
        }
        let elsewhere = authenticator.authenticate(&token, Some(OTHER), now()).await;
        assert!(matches!(elsewhere, Err(AuthenticateError::OtherTenant)));
        let late = authenticator.authenticate(&token, Some(TENANT), now() + TimeDelta::hours(1)).await;
        assert!(matches!(late, Err(AuthenticateError::Expired)));
        let revoked = authenticator.authenticate(&token, Some(TENANT), now()).await;
        assert!(matches!(revoked, Err(AuthenticateError::Revoked)));
    }

    #[tokio::test]
    async fn bad_and_old_tokens_are_told_apart() {
        let old =
            ask_in_vain(&token(Some(TENANT), Role::User), Some(TENANT), now() + TimeDelta::hours(1)).await;
        assert!(matches!(old, AuthenticateError::Expired));
        let bad = ask_in_vain("a.b.c", Some(TENANT), now()).await;
        assert!(matches!(bad, AuthenticateError::Invalid(_)));
    }

    #[tokio::test]
    async fn unanswered_look_up_admits_nobody() {
        let mut store = MockAuthorityStore::new();
        store.expect_find_authority().returning(|_, _| Err(StoreError::Unavailable("down".into())));
        let authenticator = Authenticator::new(tokens(), Arc::new(store));
        let refused = authenticator.authenticate(&token(Some(TENANT), Role::User), Some(TENANT), now()).await;
        assert!(matches!(refused, Err(AuthenticateError::Store(StoreError::Unavailable(_)))));
    }
}
