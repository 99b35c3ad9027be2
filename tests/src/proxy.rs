//! A proxy between a pool and PostgreSQL that cuts a connection at its COMMIT: before the server heard of it, or
//! after it had done it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use secrecy::ExposeSecret;
use sqlx::Row;
use stagesub_storage::target::{ConnectionTarget, ServerHost};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use uuid::Uuid;

use crate::cluster::keys;
use crate::database::{associated_data, connect, store_login};

/// Where a COMMIT is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never hears of it: nothing is kept.
    BeforeCommit,
    /// The server did it, and its answer never arrives: everything is kept.
    AfterCommit,
}

impl Cut {
    /// Both.
    pub const ALL: [Self; 2] = [Self::BeforeCommit, Self::AfterCommit];
}

/// The proxy. Connections pass unchanged until it is armed.
#[derive(Debug)]
pub struct CutProxy {
    address: SocketAddr,
    orders: Arc<Orders>,
    accepting: tokio::task::AbortHandle,
}

#[derive(Debug, Default)]
struct Orders {
    /// How many COMMITs pass before the one that is cut; 0: none is.
    countdown: AtomicU32,
    after: AtomicBool,
    /// How many were cut.
    cuts: AtomicU32,
    /// Severity and SQLSTATE that the client is told in place of the answer.
    told: Mutex<Option<(&'static str, &'static str)>>,
    /// Whether the next end of a read is cut, after it was done.
    end_of_read: AtomicBool,
}

impl CutProxy {
    /// A proxy in front of the server that a target names.
    pub async fn start(server: &ConnectionTarget) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let orders = Arc::new(Orders::default());
        let (host, port, told) = (server.host().clone(), server.port(), Arc::clone(&orders));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (host, orders) = (host.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    // Whichever side ends, the other is told by its connection's end: that is a proxy's whole duty.
                    let _ended = match host {
                        ServerHost::Tcp(host) => match TcpStream::connect((host.as_str(), port)).await {
                            Ok(server) => pass(client, server, &orders).await,
                            Err(error) => Err(error),
                        },
                        ServerHost::Socket(directory) => {
                            match UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await {
                                Ok(server) => pass(client, server, &orders).await,
                                Err(error) => Err(error),
                            }
                        }
                    };
                });
            }
        })
        .abort_handle();
        Self { address, orders, accepting }
    }

    /// The `number`th COMMIT from now, counted from 1, is cut off.
    pub fn cut(&self, cut: Cut, number: u32) {
        self.orders.after.store(cut == Cut::AfterCommit, Ordering::SeqCst);
        self.orders.countdown.store(number, Ordering::SeqCst);
    }

    /// The next COMMIT is done and cut off, and the client told this error in place of the answer: what a server says
    /// that gives up, or a pooler of a server that it lost.
    pub fn tell(&self, severity: &'static str, code: &'static str) {
        *self.orders.told.lock().expect("nobody panics with it") = Some((severity, code));
        self.cut(Cut::AfterCommit, 1);
    }

    /// The next end of a read, for whose answer nobody waits, is done and cut off.
    pub fn cut_end_of_read(&self) {
        self.orders.end_of_read.store(true, Ordering::SeqCst);
    }

    /// How many COMMITs were cut off so far.
    #[must_use]
    pub fn cuts(&self) -> u32 {
        self.orders.cuts.load(Ordering::SeqCst)
    }

    /// The same database and user by way of the proxy.
    #[must_use]
    pub fn before(&self, target: &ConnectionTarget) -> ConnectionTarget {
        let url = target.to_url();
        let (credentials, _) = url.expose_secret().rsplit_once('@').expect("it has a password");
        let through = format!("{credentials}@{}/{}?sslmode=disable", self.address, target.database());
        ConnectionTarget::parse(&through).expect("a connection string")
    }

    /// Makes the platform reach its databases through here wherever it works as one of these roles. To be called
    /// before the platform connects.
    pub async fn stand_before(&self, registry: &ConnectionTarget, roles: &[&str]) {
        let mut conn = connect(registry).await;
        let logins = sqlx::query(
            "SELECT l.database_id, l.role, l.sealed, d.tenant_id
            FROM registry.database_logins AS l JOIN registry.databases AS d ON d.id = l.database_id",
        )
        .fetch_all(&mut conn)
        .await
        .expect("the registry's logins can be read");
        let mut moved = 0;
        for login in logins {
            let (database, role): (Uuid, String) = (login.get(0), login.get(1));
            if !roles.contains(&role.as_str()) {
                continue;
            }
            let (sealed, tenant): (String, Option<Uuid>) = (login.get(2), login.get(3));
            let sealed = sealed.parse().expect("what is stored is a sealed value");
            let url = keys()
                .open_text(&sealed, &associated_data(database, &role, tenant))
                .expect("it opens with the test's keys");
            let target = ConnectionTarget::parse(url.expose_secret()).expect("a connection string");
            let through = self.before(&target);
            store_login(&mut conn, &keys(), (database, &role, tenant), &through).await;
            moved += 1;
        }
        assert!(moved > 0, "no login of {roles:?}");
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What the proxy does with a message of the client.
enum Order {
    Pass,
    Cut,
    /// Once the server said that it did this.
    CutAfter(&'static [u8]),
}

impl Orders {
    /// A COMMIT is a simple query, alone or among others; the pools send it in one piece. The end of a read is a
    /// ROLLBACK, in a message of its own or at the beginning of the next's, which nobody waits for: it comes when it comes.
    fn on(&self, message: &[u8]) -> Order {
        let ends_read = message.get(5..).is_some_and(|text| text.starts_with(b"ROLLBACK"));
        if ends_read && self.end_of_read.swap(false, Ordering::SeqCst) {
            self.cuts.fetch_add(1, Ordering::SeqCst);
            return Order::CutAfter(b"ROLLBACK\0");
        }
        // Not the COMMITTED of a BEGIN.
        let says_commit = |text: &[u8]| text == b"COMMIT;" || text == b"COMMIT\0";
        if message.first() != Some(&b'Q') || !message.windows(7).any(says_commit) {
            return Order::Pass;
        }
        let left =
            self.countdown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left != Ok(1) {
            return Order::Pass;
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        if self.after.load(Ordering::SeqCst) { Order::CutAfter(b"COMMIT\0") } else { Order::Cut }
    }
}

/// Passes bytes both ways until one side ends, or an order to cut comes.
async fn pass<S>(client: TcpStream, server: S, orders: &Orders) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let message = &asked[..read?];
                if message.is_empty() {
                    return Ok(());
                }
                match orders.on(message) {
                    Order::Pass => to_server.write_all(message).await?,
                    Order::Cut => return Ok(()),
                    Order::CutAfter(done) => {
                        to_server.write_all(message).await?;
                        until_done(&mut from_server, done, &mut answered).await?;
                        let told = orders.told.lock().expect("nobody panics with it").take();
                        return match told {
                            Some((severity, code)) => to_client.write_all(&error_response(severity, code)).await,
                            None => Ok(()),
                        };
                    }
                }
            }
            read = from_server.read(&mut answered) => {
                let answer = &answered[..read?];
                if answer.is_empty() {
                    return Ok(());
                }
                to_client.write_all(answer).await?;
            }
        }
    }
}

/// Reads what the server says until it says that it did this, and tells nobody.
async fn until_done(
    server: &mut (impl AsyncRead + Unpin),
    done: &[u8],
    buffer: &mut [u8],
) -> std::io::Result<()> {
    let mut said = Vec::new();
    loop {
        let read = server.read(buffer).await?;
        assert!(read > 0, "the server went before it was done");
        said.extend_from_slice(&buffer[..read]);
        if said.windows(done.len()).any(|text| text == done) {
            return Ok(());
        }
    }
}

/// An error as the protocol has it.
fn error_response(severity: &str, code: &str) -> Vec<u8> {
    let fields = format!("S{severity}\0V{severity}\0C{code}\0Mit is over\0\0");
    let length = u32::try_from(fields.len() + 4).expect("a short message");
    [&b"E"[..], &length.to_be_bytes(), fields.as_bytes()].concat()
}
