//! What an allowed request uses up, made afresh through the service itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request};
use stagesub_domain::ports::registry::PersonRegistry;
use stagesub_tenancy::prove::http::{Fixtures, Route, Site, Target};
use uuid::Uuid;

/// Somebody who joins each time, to be removed.
const LEAVER: &str = "leaver@canary.stagesub.invalid";

/// Makes things as the canary's administrator.
pub(super) struct Made {
    pub(super) people: Arc<dyn PersonRegistry>,
}

#[async_trait]
impl Fixtures for Made {
    async fn prepare(
        &self,
        target: &dyn Target,
        route: &Route,
        site: &Site,
    ) -> Result<BTreeMap<String, String>, String> {
        let uses_up = route.method == Method::DELETE || route.path.ends_with("/archive");
        let unique = Uuid::now_v7().simple();
        let instrument = site.values.get("instrument").map(String::as_str).unwrap_or_default();
        let (placeholder, body) = match route.path.split('/').nth(3) {
            Some("instruments") if uses_up => ("instrument", format!(r#"{{"name": "probe {unique}"}}"#)),
            Some("positions") if uses_up => (
                "position",
                format!(r#"{{"instrument": "{instrument}", "name": "probe {unique}", "hierarchyLevel": 9}}"#),
            ),
            Some("musicians") if uses_up => (
                "musician",
                format!(
                    r#"{{"firstName": "Probe", "lastName": "Probe", "email": "{unique}@canary.stagesub.invalid"}}"#
                ),
            ),
            Some("projects") if uses_up => {
                ("project", format!(r#"{{"name": "probe {unique}", "startDate": "2027-01-04"}}"#))
            }
            Some("users") if uses_up => (
                "member",
                format!(
                    r#"{{"email": "{LEAVER}", "firstName": "Probe", "lastName": "Leaver", "role": "viewer"}}"#
                ),
            ),
            _ => return Ok(BTreeMap::new()),
        };
        let collection: Vec<&str> = route.path.split('/').take(4).collect();
        let id = self.make(target, site, &collection.join("/"), body).await?;
        Ok([(placeholder.to_owned(), id)].into())
    }
}

impl Made {
    async fn make(
        &self,
        target: &dyn Target,
        site: &Site,
        collection: &str,
        body: String,
    ) -> Result<String, String> {
        let admin = site.callers.first().ok_or("nobody can make what the attack uses up")?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(collection)
            .header(HOST, &site.host)
            .header(AUTHORIZATION, admin.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| error.to_string())?;
        let answer = target.send(request).await.map_err(|error| error.to_string())?;
        if answer.status() == http::StatusCode::CONFLICT && collection.ends_with("/users") {
            // A run that was cut off left them a member.
            let person = self.people.find_by_email(LEAVER).await.map_err(|error| error.to_string())?;
            return person.map(|person| person.id.to_string()).ok_or_else(|| "nobody left".to_owned());
        }
        let made = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        match made.and_then(|location| location.rsplit('/').next()) {
            Some(id) if answer.status() == http::StatusCode::CREATED => Ok(id.to_owned()),
            _ => Err(format!(
                "what the attack uses up was not made: POST {collection} got {}",
                answer.status()
            )),
        }
    }
}
