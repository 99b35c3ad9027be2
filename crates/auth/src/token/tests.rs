use serde_json::{Value, json};

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ISSUER: &str = "stagesub.test";
const USER: Uuid = Uuid::from_u128(0x11);
const TENANT: TenantId = TenantId::from_uuid(Uuid::from_u128(0x22));

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 500_000_000).unwrap()
}

fn tokens() -> AccessTokens {
    AccessTokens::new(&SecretString::from(SECRET), ISSUER).unwrap()
}

fn member() -> TokenSubject {
    TokenSubject { user: USER, tenant: Some(TENANT), role: Role::User, auth_epoch: AuthEpoch(3) }
}

/// Claims that are accepted as they are; the tests break one of them each.
fn good() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": USER, "tid": TENANT, "role": "user", "aep": 3,
        "iat": now().timestamp(), "exp": now().timestamp() + 900, "jti": Uuid::from_u128(0x33),
    })
}

fn forge(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .unwrap()
}

/// The good claims with `name` set to `value`, or left out when it is null, properly signed.
fn with(name: &str, value: Value) -> String {
    let mut claims = good();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    forge(Algorithm::HS256, SECRET, &claims)
}

fn is_invalid(token: &str) -> bool {
    matches!(tokens().verify(token, now()), Err(TokenError::Invalid(_)))
}

#[test]
fn token_says_who_and_where() {
    let token = tokens().issue(member(), now()).unwrap();
    let claims = tokens().verify(&token, now()).unwrap();
    assert_eq!(claims.user, USER);
    assert_eq!(claims.tenant, Some(TENANT));
    assert_eq!(claims.role, Role::User);
    assert_eq!(claims.auth_epoch, AuthEpoch(3));
    assert_eq!(claims.issued_at.timestamp(), now().timestamp());
    assert_eq!(claims.expires_at - claims.issued_at, TimeDelta::minutes(15));
}

#[test]
fn each_token_has_an_identity_of_its_own() {
    let tokens = tokens();
    let id = || tokens.verify(&tokens.issue(member(), now()).unwrap(), now()).unwrap().token_id;
    assert_ne!(id(), id());
}

#[test]
fn platform_token_names_no_tenant() {
    let subject = TokenSubject { tenant: None, role: Role::Superadmin, ..member() };
    let token = tokens().issue(subject, now()).unwrap();
    let payload: Value = jsonwebtoken::dangerous::insecure_decode(&token).unwrap().claims;
    assert!(payload.get("tid").is_none());
    assert_eq!(tokens().verify(&token, now()).unwrap().tenant, None);
}

#[test]
fn token_ends_to_the_second() {
    let token = tokens().issue(member(), now()).unwrap();
    let end = DateTime::from_timestamp(now().timestamp() + 900, 0).unwrap();
    assert!(tokens().verify(&token, end - TimeDelta::milliseconds(1)).is_ok());
    assert!(matches!(tokens().verify(&token, end), Err(TokenError::Expired)));
}

#[test]
fn the_times_of_a_token_that_is_known_are_asked_again() {
    let tokens = tokens();
    let token = tokens.issue(member(), now()).unwrap();
    let known = tokens.verify(&token, now()).unwrap();
    assert!(matches!(tokens.verify(&token, known.expires_at), Err(TokenError::Expired)));
    // One that is over takes nobody's place.
    let late = tokens.issue(member(), now() - TimeDelta::hours(1)).unwrap();
    assert!(matches!(tokens.verify(&late, now()), Err(TokenError::Expired)));
    let earlier = known.issued_at - TimeDelta::seconds(MAX_CLOCK_SKEW_SECS + 1);
    assert!(matches!(tokens.verify(&token, earlier), Err(TokenError::Invalid(_))));
    assert_eq!(tokens.verify(&token, now()).unwrap(), known);
}

#[test]
fn what_resembles_a_known_token_is_refused() {
    let tokens = tokens();
    let token = tokens.issue(member(), now()).unwrap();
    tokens.verify(&token, now()).unwrap();
    for other in
        [&token[..token.len() - 1], &format!("{token} "), &format!("{token}A"), &token.to_lowercase()]
    {
        assert!(matches!(tokens.verify(other, now()), Err(TokenError::Invalid(_))), "{other}");
    }
}

#[test]
fn forged_token_that_is_old_is_invalid_not_expired() {
    let mut claims = good();
    claims["exp"] = json!(1);
    let forged = forge(Algorithm::HS256, "another secret of 32 bytes length", &claims);
    assert!(is_invalid(&forged));
}

#[test]
fn good_claims_are_accepted_as_the_tests_sign_them() {
    assert!(tokens().verify(&forge(Algorithm::HS256, SECRET, &good()), now()).is_ok());
}

#[test]
fn other_secret_is_refused() {
    assert!(is_invalid(&forge(Algorithm::HS256, "another secret of 32 bytes length", &good())));
}

#[test]
fn other_algorithms_are_refused_even_with_the_secret() {
    assert!(is_invalid(&forge(Algorithm::HS384, SECRET, &good())));
    assert!(is_invalid(&forge(Algorithm::HS512, SECRET, &good())));
}

#[test]
fn unsigned_tokens_are_refused() {
    let signed = forge(Algorithm::HS256, SECRET, &good());
    let (_, payload) = signed.split_once('.').unwrap();
    let (payload, signature) = payload.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}, also with other cases of the word.
    for header in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiJOT05FIn0"] {
        assert!(is_invalid(&format!("{header}.{payload}.")));
        assert!(is_invalid(&format!("{header}.{payload}.{signature}")));
    }
    let (header, _) = signed.split_once('.').unwrap();
    assert!(is_invalid(&format!("{header}.{payload}.")));
    assert!(is_invalid(&format!("{header}.{payload}")));
}

#[test]
fn changed_payload_is_refused() {
    let signed = forge(Algorithm::HS256, SECRET, &good());
    let admin = with("role", json!("admin"));
    let parts: Vec<&str> = signed.split('.').collect();
    let stolen = format!("{}.{}.{}", parts[0], admin.split('.').nth(1).unwrap(), parts[2]);
    assert!(is_invalid(&stolen));
}

#[test]
fn each_claim_but_the_tenant_is_required() {
    for name in ["iss", "aud", "sub", "role", "aep", "iat", "exp", "jti"] {
        assert!(is_invalid(&with(name, Value::Null)), "{name}");
    }
}

#[test]
fn issuer_and_audience_are_ours() {
    assert!(is_invalid(&with("iss", json!("other.test"))));
    assert!(is_invalid(&with("aud", json!("stagesub/refresh"))));
    assert!(is_invalid(&with("aud", json!([]))));
    assert!(is_invalid(&with("iss", json!([ISSUER]))));
    let other = AccessTokens::new(&SecretString::from(SECRET), "other.test").unwrap();
    assert!(is_invalid(&other.issue(member(), now()).unwrap()));
}

#[test]
fn malformed_claims_are_refused() {
    for (name, value) in [
        ("sub", json!("berit")),
        ("tid", json!("got")),
        ("role", json!("owner")),
        ("role", json!("Superadmin")),
        ("aep", json!("3")),
        ("exp", json!("2099-01-01")),
        ("exp", json!(i64::MAX)),
        ("exp", json!(1e30)),
        ("iat", json!(-1e30)),
        ("jti", json!(7)),
    ] {
        assert!(is_invalid(&with(name, value.clone())), "{name} {value}");
    }
    for text in ["", ".", "..", "a.b.c", "Bearer x", "åäö", &"x".repeat(100_000)] {
        assert!(is_invalid(text));
    }
}

#[test]
fn role_must_go_with_the_tenant() {
    assert!(is_invalid(&with("tid", Value::Null)), "a member's role without a tenant");
    assert!(is_invalid(&with("role", json!("superadmin"))), "a superadmin's token for a tenant");
}

#[test]
fn token_from_the_future_is_refused() {
    assert!(tokens().verify(&with("iat", json!(now().timestamp() + 30)), now()).is_ok());
    assert!(is_invalid(&with("iat", json!(now().timestamp() + 90))));
}

#[test]
fn token_is_for_the_host_it_was_made_on() {
    let other = TenantId::from_uuid(Uuid::from_u128(0x44));
    let claims = tokens().verify(&tokens().issue(member(), now()).unwrap(), now()).unwrap();
    assert!(check_tenant(&claims, Some(TENANT)).is_ok());
    assert!(matches!(check_tenant(&claims, Some(other)), Err(TokenError::OtherTenant)));
    assert!(matches!(check_tenant(&claims, None), Err(TokenError::OtherTenant)));

    let platform = Claims { tenant: None, role: Role::Superadmin, ..claims };
    assert!(check_tenant(&platform, None).is_ok());
    assert!(matches!(check_tenant(&platform, Some(TENANT)), Err(TokenError::OtherTenant)));
}

#[test]
fn short_secret_is_refused_and_says_the_rule() {
    let error = AccessTokens::new(&SecretString::from("x".repeat(31)), ISSUER).unwrap_err();
    assert_eq!(error, WeakSecret { len: 31 });
    assert!(error.to_string().contains("JWT_SECRET has 31 bytes; a signing secret has at least 32"));
    assert!(AccessTokens::new(&SecretString::from("x".repeat(32)), ISSUER).is_ok());
}

#[test]
fn neither_debug_nor_errors_tell_secret_or_token() {
    let shown = format!("{:?}", tokens());
    assert!(!shown.contains("0123456789"), "{shown}");
    let error = tokens().verify(&with("role", json!("a-secret-word")), now()).unwrap_err();
    let shown = format!("{error:?} {error}");
    assert!(!shown.contains("a-secret-word"), "{shown}");
}
