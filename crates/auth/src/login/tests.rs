use std::num::NonZeroUsize;
use std::time::Duration;

use mockall::predicate::{always, eq};

use super::*;
use crate::password::HasherSettings;
use crate::ports::{AuthEpoch, MockCredentialStore};

const USER: Uuid = Uuid::from_u128(0x11);
const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(0x22));
const EMAIL: &str = "berit@example.org";
const PASSWORD: &str = "en liten ekorre";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn origin() -> Origin {
    Origin { user_agent: Some("curl/8".into()), ..Origin::default() }
}

fn hasher(passes: u32) -> PasswordHasher {
    PasswordHasher::new(HasherSettings {
        memory_kib: 64,
        passes,
        width: NonZeroUsize::MIN,
        max_waiting: 1,
        max_wait: Duration::from_secs(5),
    })
    .unwrap()
}

fn tokens() -> Arc<AccessTokens> {
    Arc::new(AccessTokens::new(&SecretString::from("x".repeat(32)), "stagesub.test").unwrap())
}

async fn hash_of(password: &str, passes: u32) -> SecretString {
    hasher(passes).hash(&SecretString::from(password)).await.unwrap()
}

async fn member() -> Credential {
    Credential {
        user: USER,
        email: EMAIL.into(),
        first_name: "Berit".into(),
        last_name: "Berg".into(),
        password_hash: Some(hash_of(PASSWORD, 2).await),
        is_active: true,
        is_superadmin: false,
        auth_epoch: AuthEpoch(3),
        role: Some(Role::User),
    }
}

async fn superadmin() -> Credential {
    Credential { is_superadmin: true, role: None, ..member().await }
}

fn service(store: MockCredentialStore) -> LoginService {
    LoginService::new(Arc::new(store), Arc::new(hasher(2)), tokens())
}

async fn sign_in(
    store: MockCredentialStore,
    password: &str,
    tenant: Option<TenantId>,
) -> Result<SignedIn, LoginError> {
    service(store).login(EMAIL, SecretString::from(password), tenant, origin(), now()).await
}

/// A store that knows `found` and nothing else; writing to it is not expected.
fn knows(found: Option<Credential>, tenant: Option<TenantId>) -> MockCredentialStore {
    let mut store = MockCredentialStore::new();
    store.expect_find_credential().with(eq(EMAIL), eq(tenant)).return_once(move |_, _| Ok(found));
    store
}

/// Asserts that it is refused, and that the refusal is audited with this reason and person.
async fn assert_refused(
    found: Option<Credential>,
    password: &str,
    tenant: Option<TenantId>,
    reason: &'static str,
    user: Option<Uuid>,
) {
    let mut store = knows(found, tenant);
    store
        .expect_record_refusal()
        .withf(move |at, entry| {
            *at == tenant
                && *entry
                    == AuditEntry {
                        actor: Actor { identity: Identity::System, origin: origin() },
                        at: now(),
                        action: AuditAction::LoginFailed,
                        model: "user",
                        record_id: user.map(|user| user.to_string()),
                        changes: Some(json!({ "reason": reason })),
                    }
        })
        .once()
        .return_once(|_, _| Ok(()));
    let refused = sign_in(store, password, tenant).await;
    assert!(matches!(refused, Err(LoginError::Refused)), "{reason}: {refused:?}");
}

#[tokio::test]
async fn member_signs_in_and_it_is_audited() {
    let mut store = knows(Some(member().await), Some(TENANT));
    store
        .expect_record_login()
        .withf(|user, tenant, at, entry| {
            (*user, *tenant, *at) == (USER, Some(TENANT), now())
                && entry.action == AuditAction::Login
                && entry.actor.identity == Identity::User { user: USER, role: Role::User }
                && entry.actor.origin == origin()
                && entry.record_id == Some(USER.to_string())
        })
        .once()
        .return_once(|_, _, _, _| Ok(()));
    let signed_in = sign_in(store, PASSWORD, Some(TENANT)).await.unwrap();

    assert_eq!(signed_in.expires_in_secs, 900);
    assert_eq!(signed_in.role, Role::User);
    assert_eq!(signed_in.person.first_name, "Berit");
    let claims = tokens().verify(&signed_in.access_token, now()).unwrap();
    assert_eq!((claims.user, claims.tenant), (USER, Some(TENANT)));
    assert_eq!((claims.role, claims.auth_epoch), (Role::User, AuthEpoch(3)));
}

#[tokio::test]
async fn superadmin_signs_in_on_the_platforms_host() {
    let mut store = knows(Some(superadmin().await), None);
    store
        .expect_record_login()
        .withf(|_, tenant, _, entry| {
            tenant.is_none() && entry.actor.identity == Identity::Superadmin { user: USER }
        })
        .once()
        .return_once(|_, _, _, _| Ok(()));
    let signed_in = sign_in(store, PASSWORD, None).await.unwrap();
    assert_eq!(signed_in.role, Role::Superadmin);
    assert_eq!(tokens().verify(&signed_in.access_token, now()).unwrap().tenant, None);
}

#[tokio::test]
async fn superadmin_who_is_a_member_signs_in_as_the_member() {
    let credential = Credential { role: Some(Role::Viewer), ..superadmin().await };
    let mut store = knows(Some(credential), Some(TENANT));
    store.expect_record_login().once().return_once(|_, _, _, _| Ok(()));
    let signed_in = sign_in(store, PASSWORD, Some(TENANT)).await.unwrap();
    assert_eq!(signed_in.role, Role::Viewer);
}

#[tokio::test]
async fn every_other_case_is_the_same_refusal() {
    let member = member().await;
    let at = Some(TENANT);
    assert_refused(None, PASSWORD, at, "no_account_here", None).await;
    assert_refused(None, PASSWORD, None, "no_account_here", None).await;
    assert_refused(Some(member.clone()), "en stor ekorre", at, "wrong_password", Some(USER)).await;
    assert_refused(Some(member.clone()), "", at, "wrong_password", Some(USER)).await;
    let inactive = Credential { is_active: false, ..member.clone() };
    assert_refused(Some(inactive), PASSWORD, at, "inactive", Some(USER)).await;
    let by_provider = Credential { password_hash: None, ..member.clone() };
    assert_refused(Some(by_provider), PASSWORD, at, "no_password", Some(USER)).await;
    let broken = Credential { password_hash: Some(PASSWORD.into()), ..member.clone() };
    assert_refused(Some(broken), PASSWORD, at, "unusable_hash", Some(USER)).await;
    // Known on the platform, but not here: the tenant's audit log says what it says of a stranger.
    let elsewhere = Credential { role: None, ..member.clone() };
    assert_refused(Some(elsewhere), PASSWORD, at, "no_account_here", None).await;
    assert_refused(Some(superadmin().await), PASSWORD, at, "no_account_here", None).await;
    assert_refused(Some(member), PASSWORD, None, "no_account_here", Some(USER)).await;
}

#[tokio::test]
async fn password_longer_than_any_is_refused_even_if_it_matches() {
    let long = "x".repeat(PASSWORD_MAX_BYTES + 1);
    let credential = Credential { password_hash: Some(hash_of(&long, 2).await), ..member().await };
    assert_refused(Some(credential), &long, Some(TENANT), "wrong_password", Some(USER)).await;
}

#[tokio::test]
async fn address_that_nobody_can_have_is_not_looked_up() {
    let long = "x".repeat(MAX_EMAIL_BYTES + 1);
    for email in ["", "  ", "a\0b@example.org", "a@example.org\r\nBcc: x", long.as_str()] {
        let mut store = MockCredentialStore::new();
        store.expect_record_refusal().once().return_once(|_, _| Ok(()));
        let refused =
            service(store).login(email, SecretString::from(PASSWORD), Some(TENANT), origin(), now()).await;
        assert!(matches!(refused, Err(LoginError::Refused)), "{email:?}");
    }
}

#[tokio::test]
async fn every_case_waits_for_the_hasher() {
    // With no place left in the hasher's queue each case is turned away, so none answers without hashing.
    let member = member().await;
    let cases = [
        None,
        Some(Credential { is_active: false, ..member.clone() }),
        Some(Credential { password_hash: None, ..member.clone() }),
        Some(Credential { role: None, ..member.clone() }),
        Some(member),
    ];
    let long = "x".repeat(PASSWORD_MAX_BYTES + 1);
    for found in cases {
        for password in [PASSWORD, "en stor ekorre", &long] {
            let store = knows(found.clone(), Some(TENANT));
            let service = LoginService::new(Arc::new(store), Arc::new(hasher(2).without_places()), tokens());
            let refused =
                service.login(EMAIL, SecretString::from(password), Some(TENANT), origin(), now()).await;
            assert!(matches!(refused, Err(LoginError::Overloaded)), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn outdated_hash_is_replaced_after_it_matched() {
    let old = hash_of(PASSWORD, 1).await;
    let bcrypt = SecretString::from(bcrypt::hash(PASSWORD, 4).unwrap());
    for old in [old, bcrypt] {
        let credential = Credential { password_hash: Some(old.clone()), ..member().await };
        let mut store = knows(Some(credential), Some(TENANT));
        store
            .expect_rehash()
            .withf(move |user, was, new| {
                *user == USER
                    && was.expose_secret() == old.expose_secret()
                    && new.expose_secret().starts_with("$argon2id$v=19$m=64,t=2,p=1$")
            })
            .once()
            .return_once(|_, _, _| Ok(()));
        store.expect_record_login().once().return_once(|_, _, _, _| Ok(()));
        assert!(sign_in(store, PASSWORD, Some(TENANT)).await.is_ok());
    }
}

#[tokio::test]
async fn outdated_hash_is_not_replaced_when_the_sign_in_is_refused() {
    let old = Some(hash_of(PASSWORD, 1).await);
    let member = Credential { password_hash: old, ..member().await };
    assert_refused(Some(member.clone()), "en stor ekorre", Some(TENANT), "wrong_password", Some(USER)).await;
    let inactive = Credential { is_active: false, ..member };
    assert_refused(Some(inactive), PASSWORD, Some(TENANT), "inactive", Some(USER)).await;
}

#[tokio::test]
async fn store_that_fails_signs_nobody_in() {
    let down = || StoreError::Unavailable("down".into());
    let mut unasked = MockCredentialStore::new();
    unasked.expect_find_credential().with(eq(EMAIL), always()).return_once(move |_, _| Err(down()));
    let failed = sign_in(unasked, PASSWORD, Some(TENANT)).await;
    assert!(matches!(failed, Err(LoginError::Store(StoreError::Unavailable(_)))));

    let mut unrecorded = knows(Some(member().await), Some(TENANT));
    unrecorded.expect_record_login().return_once(move |_, _, _, _| Err(down()));
    let failed = sign_in(unrecorded, PASSWORD, Some(TENANT)).await;
    assert!(matches!(failed, Err(LoginError::Store(StoreError::Unavailable(_)))));

    let mut unaudited = knows(None, Some(TENANT));
    unaudited.expect_record_refusal().return_once(move |_, _| Err(down()));
    let failed = sign_in(unaudited, PASSWORD, Some(TENANT)).await;
    assert!(matches!(failed, Err(LoginError::Store(StoreError::Unavailable(_)))));
}

#[tokio::test]
async fn debug_tells_neither_token_nor_address() {
    let mut store = knows(Some(member().await), Some(TENANT));
    store.expect_record_login().return_once(|_, _, _, _| Ok(()));
    let signed_in = sign_in(store, PASSWORD, Some(TENANT)).await.unwrap();
    let shown = format!("{signed_in:?} {:?}", member().await);
    assert!(!shown.contains(&signed_in.access_token), "{shown}");
    assert!(!shown.contains(EMAIL), "{shown}");
    assert!(!shown.contains("$argon2"), "{shown}");
}
