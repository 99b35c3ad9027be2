//! What a customer who means harm would try on another, and what becomes of it.

use std::error::Error;
use std::process::ExitCode;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use sqlx::{Connection, PgConnection};
use stagesub_storage::factory::TenantDb;
use stagesub_storage::service::Service;
use stagesub_tenancy::{Access, TenantId, TenantScope};
use tower::ServiceExt;
use uuid::Uuid;

use super::CUSTOMERS;
use super::ground::Ground;

/// More than any answer here.
const LONGEST: usize = 1 << 20;

/// Attacks, says what became of each, and answers with exit code 1 if one got through.
pub(crate) async fn run(desk: &Service, ground: &Ground) -> Result<ExitCode, Box<dyn Error>> {
    let [(.., attacker), (.., victim)] = CUSTOMERS;
    println!("{attacker} attacks {victim}.");
    let attack = Attack::prepare(desk, ground).await?;
    let mut through = 0;
    for (what, got_through) in attack.all().await? {
        println!("{} {what}", if got_through { "GOT THROUGH" } else { "failed     " });
        through += usize::from(got_through);
    }
    let proof = desk.proof(attack.attacker.tenant_id(), attack.victim).await?.run().await?;
    for failed in proof.failures() {
        println!("GOT THROUGH {} on {}: {}", failed.attempt, failed.target, failed.suite);
    }
    let kit = if proof.passed() { "failed     " } else { "GOT THROUGH" };
    println!("{kit} every table, key and fence, by the kit that comes with the storage");
    // An attack that finds nothing where there is nothing proves nothing.
    let seen = attack.shows("harbor.localhost", &attack.ticket(), None).await?;
    let removes = attack.removes_its_own().await?;
    println!("The attacker {} a ticket of its own.", if removes { "removes" } else { "cannot remove" });
    println!("The victim {} the ticket at its own host.", if seen { "sees" } else { "does not see" });
    println!("An administrator, whom no policy holds, sees the tickets of {} customers.", attack.there);
    if through == 0 && proof.passed() && seen && removes && attack.there == CUSTOMERS.len() {
        println!("No attack got through.");
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// Who attacks whom, and what they are after.
struct Attack {
    db: TenantDb,
    router: Router,
    attacker: TenantScope,
    victim: TenantId,
    /// A ticket of the victim's, whose id the attacker somehow learned.
    loot: Uuid,
    subject: String,
    /// Customers that have tickets.
    there: usize,
}

impl Attack {
    async fn prepare(desk: &Service, ground: &Ground) -> Result<Self, Box<dyn Error>> {
        let [(code, subdomain, name), (victim_code, victim_subdomain, victim_name)] = CUSTOMERS;
        let attacker = desk.ensure_tenant(code, subdomain, name).await?;
        let victim = desk.ensure_tenant(victim_code, victim_subdomain, victim_name).await?;
        let mut admin = PgConnection::connect_with(&ground.database().to_connect_options()).await?;
        let there: i64 = sqlx::query_scalar("SELECT count(DISTINCT tenant_id) FROM helpdesk.ticket")
            .fetch_one(&mut admin)
            .await?;
        admin.close().await?;
        let mut tx = desk.db().begin(&desk.scope(victim).await?, Access::Read).await?;
        let (loot, subject) = sqlx::query_as(
            "SELECT id, subject FROM helpdesk.ticket WHERE tenant_id = $1 ORDER BY id LIMIT 1",
        )
        .bind(tx.tenant().as_uuid())
        .fetch_one(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(Self {
            db: desk.db(),
            router: super::router(desk),
            attacker: desk.scope(attacker).await?,
            victim,
            loot,
            subject,
            there: usize::try_from(there)?,
        })
    }

    /// Where the victim's ticket is, at a host of the victim's.
    fn ticket(&self) -> String {
        format!("/tickets/{}", self.loot)
    }

    async fn all(&self) -> Result<Vec<(&'static str, bool)>, Box<dyn Error>> {
        let mine = "nordic.localhost";
        let ticket = self.ticket();
        let comments = format!("{ticket}/comments");
        let comment = Some(r#"{"body": "planted"}"#);
        Ok(vec![
            ("a handler whose SQL forgot WHERE tenant_id", self.shows(mine, "/forgetful", None).await?),
            ("the victim's ticket by its id, at the attacker's host", self.shows(mine, &ticket, None).await?),
            ("the same, with headers that name the victim", self.shows_with_headers(mine, &ticket).await?),
            ("the same, at a host that is nobody's", self.shows("harbor.evil.example", &ticket, None).await?),
            (
                "the victim's ticket removed by its id, at the attacker's host",
                self.removes(mine, &ticket).await?,
            ),
            ("a comment on the victim's ticket", self.shows(mine, &comments, comment).await?),
            ("SQL that says WHERE tenant_id = the victim's", self.reads_by_id().await?),
            ("a row planted in the victim's name", self.changes(PLANT).await?),
            ("a ticket of one's own given to the victim", self.changes(GIVE).await?),
            ("the victim's tickets deleted, with the comments on them", self.changes(DELETE).await?),
        ])
    }

    /// Whether a request is answered with the victim's ticket, or does what it asks.
    async fn shows(&self, host: &str, path: &str, body: Option<&str>) -> Result<bool, Box<dyn Error>> {
        let request = Request::builder().uri(path).header(header::HOST, host);
        self.answered(match body {
            None => request.body(Body::empty())?,
            Some(json) => request
                .method("POST")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(json.to_owned()))?,
        })
        .await
    }

    async fn removes(&self, host: &str, path: &str) -> Result<bool, Box<dyn Error>> {
        let request = Request::builder().method("DELETE").uri(path).header(header::HOST, host);
        self.answered(request.body(Body::empty())?).await
    }

    /// Whether a ticket that is the attacker's own goes the way on which the victim's does not.
    async fn removes_its_own(&self) -> Result<bool, Box<dyn Error>> {
        let mut tx = self.db.begin(&self.attacker, Access::Write).await?;
        let own: Uuid = sqlx::query_scalar(
            "INSERT INTO helpdesk.ticket (tenant_id, subject) VALUES ($1, 'mine') RETURNING id",
        )
        .bind(tx.tenant().as_uuid())
        .fetch_one(&mut tx)
        .await?;
        tx.commit().await?;
        self.removes("nordic.localhost", &format!("/tickets/{own}")).await
    }

    async fn shows_with_headers(&self, host: &str, path: &str) -> Result<bool, Box<dyn Error>> {
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, host)
            .header("x-forwarded-host", "harbor.localhost")
            .header("x-tenant-id", self.victim.to_string());
        self.answered(request.body(Body::empty())?).await
    }

    async fn answered(&self, request: Request<Body>) -> Result<bool, Box<dyn Error>> {
        let response = self.router.clone().oneshot(request).await?;
        let (status, text) = (response.status(), to_bytes(response.into_body(), LONGEST).await?);
        if status.is_server_error() {
            return Err(format!("an attack was answered {status}, which proves nothing").into());
        }
        let done = [StatusCode::CREATED, StatusCode::NO_CONTENT].contains(&status);
        Ok(done || String::from_utf8_lossy(&text).contains(&self.subject))
    }

    async fn reads_by_id(&self) -> Result<bool, Box<dyn Error>> {
        let mut tx = self.db.begin(&self.attacker, Access::Read).await?;
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM helpdesk.ticket WHERE tenant_id = $1")
            .bind(self.victim.as_uuid())
            .fetch_one(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(seen > 0)
    }

    /// Whether a statement, in a transaction of the attacker's, changed a row.
    async fn changes(&self, sql: &'static str) -> Result<bool, Box<dyn Error>> {
        let mut tx = self.db.begin(&self.attacker, Access::Write).await?;
        match sqlx::query(sql).bind(self.victim.as_uuid()).execute(&mut tx).await {
            // The transaction is dropped: whatever it did is not kept.
            Ok(done) => Ok(done.rows_affected() > 0),
            // A policy (42501 too) or a privilege was in the way.
            Err(error)
                if error
                    .as_database_error()
                    .is_some_and(|error| error.code().as_deref() == Some("42501")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

const PLANT: &str = "INSERT INTO helpdesk.ticket (tenant_id, subject) VALUES ($1, 'planted')";
const GIVE: &str = "UPDATE helpdesk.ticket SET tenant_id = $1";
const DELETE: &str = "DELETE FROM helpdesk.ticket WHERE tenant_id = $1";
