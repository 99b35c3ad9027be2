//! Tokens that nobody gave out, made of one that somebody did.

use http::HeaderValue;

/// `{"alg":"none","typ":"JWT"}`
const ALGORITHM_NONE: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";

/// Each with what it is. `own` is good at the host that is attacked; `other` is somebody else's, whose claims
/// are put under the signature of `own`.
pub(super) fn forge(own: &HeaderValue, other: &HeaderValue) -> Vec<(&'static str, HeaderValue)> {
    let mut forged = vec![
        ("a garbage token", "Bearer garbage".to_owned()),
        ("an empty token", "Bearer ".to_owned()),
        ("a token of another scheme", "Basic YWRtaW46YWRtaW4=".to_owned()),
    ];
    let (Some(own), Some(other)) = (token(own), token(other)) else { return values(forged) };
    forged.push(("a token with one character changed", format!("Bearer {}", tampered(own))));
    let (Some((header, claims, signature)), Some((_, claims_of_other, _))) = (parts(own), parts(other))
    else {
        return values(forged);
    };
    forged.extend([
        ("a token without its signature", format!("Bearer {header}.{claims}.")),
        ("a token that says it needs no signature", format!("Bearer {ALGORITHM_NONE}.{claims}.")),
        (
            "a token that says it needs no signature, with one",
            format!("Bearer {ALGORITHM_NONE}.{claims}.{signature}"),
        ),
        (
            "a token with somebody else's claims under its signature",
            format!("Bearer {header}.{claims_of_other}.{signature}"),
        ),
        ("a token with another signature", format!("Bearer {header}.{claims}.{}", tampered(signature))),
        ("a token with changed claims", format!("Bearer {header}.{}.{signature}", tampered(claims))),
    ]);
    values(forged)
}

fn values(forged: Vec<(&'static str, String)>) -> Vec<(&'static str, HeaderValue)> {
    forged
        .into_iter()
        .filter_map(|(what, text)| {
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            Some((what, value))
        })
        .collect()
}

fn token(authorization: &HeaderValue) -> Option<&str> {
    authorization.to_str().ok()?.strip_prefix("Bearer ")
}

/// Header, claims and signature of a JWT.
fn parts(token: &str) -> Option<(&str, &str, &str)> {
    let (header, rest) = token.split_once('.')?;
    let (claims, signature) = rest.split_once('.')?;
    Some((header, claims, signature))
}

/// Another character at the middle: the last one of base64 may carry bits that do not count.
fn tampered(text: &str) -> String {
    let at = text.len() / 2;
    text.char_indices()
        .map(|(index, c)| match (index == at, c) {
            (false, c) => c,
            (true, 'A') => 'B',
            (true, _) => 'A',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_is_forged_in_every_way_and_never_into_itself() {
        let own = HeaderValue::from_static("Bearer head.claims.signature");
        let other = HeaderValue::from_static("Bearer head.others.another");
        let forged = forge(&own, &other);
        assert_eq!(forged.len(), 10);
        for (what, value) in &forged {
            assert!(value != own && value != other, "{what}");
            assert!(value.is_sensitive(), "{what}");
        }
        let texts: Vec<&str> = forged.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert!(texts.contains(&"Bearer head.others.signature"));
        assert!(texts.contains(&"Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.claims."));
    }

    #[test]
    fn a_token_without_parts_is_forged_as_far_as_it_goes() {
        let own = HeaderValue::from_static("Bearer opaque");
        let forged = forge(&own, &own);
        assert_eq!(forged.len(), 4);
        assert!(forged.iter().all(|(_, value)| *value != own));
    }
}
