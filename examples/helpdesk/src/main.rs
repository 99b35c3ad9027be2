//! A help desk for many customers, each with a host and tickets of its own, in one database.
//!
//! What is marked `// tenancy: 1` to `// tenancy: 6` is all that separates the customers, from nothing to one isolated
//! query; README.md goes through it. `routes.rs` has the other handlers, `attack.rs` tries to break it, `ground.rs`
//! finds a Postgres.

mod attack;
mod ground;
mod routes;

use std::error::Error;
use std::process::ExitCode;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use stagesub_storage::factory::TenantDb;
use stagesub_storage::service::Service;
use stagesub_tenancy::http::TenantLayer;
use stagesub_tenancy::{Access, TenantScope};

use ground::Ground;
use routes::{Refused, Ticket};

/// The help desk's customers. A service of its own would have them sign up.
const CUSTOMERS: [(&str, &str, &str); 2] =
    [("NOR", "nordic", "Nordic Bikes AB"), ("HAR", "harbor", "Harbor Café AB")];

const LIST: &str = "SELECT id, subject FROM helpdesk.ticket WHERE tenant_id = $1 ORDER BY subject, id";

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let attacks = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("attack") => true,
        Some(other) => {
            eprintln!("helpdesk: there is `helpdesk` and `helpdesk attack`, and not `helpdesk {other}`");
            return Ok(ExitCode::from(2));
        }
    };
    let ground = Ground::find().await?;
    let (database, keys) = (ground.database(), ground.keys()?);
    let desk = Service::open(database, keys, "localhost", "helpdesk", sqlx::migrate!()).await?; // tenancy: 1
    for (code, subdomain, name) in CUSTOMERS {
        let customer = desk.ensure_tenant(code, subdomain, name).await?; // tenancy: 2
        routes::fill(&desk, customer, name).await?;
    }
    let done = if attacks { attack::run(&desk, &ground).await } else { serve(&desk).await };
    desk.close().await;
    ground.leave().await?;
    done
}

fn router(desk: &Service) -> Router {
    let routes = routes::others().route("/tickets", get(tickets));
    routes.with_state(desk.db()).layer(TenantLayer::plain(desk.resolver(), desk.clock())) // tenancy: 3
}

// tenancy: 4, no scope, no handler
async fn tickets(State(db): State<TenantDb>, scope: TenantScope) -> Result<Json<Vec<Ticket>>, Refused> {
    let mut tx = db.begin(&scope, Access::Read).await?; // tenancy: 5
    let tickets = sqlx::query_as(LIST).bind(tx.tenant().as_uuid()).fetch_all(&mut tx).await?;
    tx.commit().await?; // tenancy: 6
    Ok(Json(tickets))
}

async fn serve(desk: &Service) -> Result<ExitCode, Box<dyn Error>> {
    let address = std::env::var("HELPDESK_LISTEN").unwrap_or_else(|_| "127.0.0.1:8090".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let port = listener.local_addr()?.port();
    for (_, subdomain, name) in CUSTOMERS {
        println!("{name}: http://{subdomain}.localhost:{port}/tickets");
    }
    let stop = async {
        // Without the signal it is stopped by force, and what was answered is kept all the same.
        let _ = tokio::signal::ctrl_c().await;
    };
    axum::serve(listener, router(desk)).with_graceful_shutdown(stop).await?;
    Ok(ExitCode::SUCCESS)
}
