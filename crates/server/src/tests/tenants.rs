//! A registry in which every orchestra that is asked for is there, and none that is made or changed is kept.

use stagesub_domain::error::StoreError;
use stagesub_domain::page::Paged;
use stagesub_domain::ports::registry::{MockTenantRegistry, TenantAccount, TenantProfile};
use stagesub_domain::subscription::Tier;
use stagesub_tenancy::{TenantId, TenantStatus};

use super::now;

/// The registry.
pub(super) fn registry() -> MockTenantRegistry {
    let mut tenants = MockTenantRegistry::new();
    tenants.expect_list().returning(|_, _, _| Ok(Paged { items: Vec::new(), next: None }));
    tenants.expect_find().returning(|id| Ok(Some(account(id))));
    tenants.expect_exists().returning(|_| Ok(true));
    tenants.expect_find_profile().returning(|id| Ok(Some(profile(id))));
    tenants.expect_change().returning(|_, _, _| Ok(None));
    tenants.expect_set_status().returning(|_, _, _, _| Ok(false));
    tenants.expect_code_is_taken().returning(|_| Ok(false));
    tenants.expect_reserve().returning(|_, _| Err(StoreError::Unavailable("not here".into())));
    tenants
}

/// An orchestra as the registry has it.
fn account(id: TenantId) -> TenantAccount {
    TenantAccount {
        id,
        code: "GOT".parse().expect("a code"),
        name: "Göteborgs Symfoniker".to_owned(),
        subdomain: "got".parse().expect("a subdomain"),
        tier: Tier::Small,
        limits: Tier::Small.limits(),
        status: TenantStatus::Active,
        trial_ends_at: None,
        subscription_ends_at: None,
        custom_branding: None,
        email_domain: None,
        placement: None,
        version: 1,
        created_at: now(),
        updated_at: now(),
    }
}

/// What its own people see of it.
fn profile(id: TenantId) -> TenantProfile {
    let TenantAccount { code, name, subdomain, tier, .. } = account(id);
    TenantProfile {
        id,
        code,
        name,
        subdomain,
        tier,
        trial_ends_at: None,
        subscription_ends_at: None,
        custom_branding: None,
    }
}
