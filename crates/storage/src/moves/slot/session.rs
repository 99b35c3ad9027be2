//! The session that makes a slot and streams from it.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use pgwire_replication::{
    PgWireError, QueryRow, ReplicationClient, ReplicationConfig, ReplicationEvent, TlsConfig,
};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{Changes, Event, StreamError, session_name, stream_name};
use crate::moves::lsn::Lsn;
use crate::moves::pgoutput::{Message, decode};
use crate::moves::progress::Direction;
use crate::target::{ConnectionTarget, ServerHost, SslMode};

/// Messages that wait for whoever applies them. More stay on the server; a message may be a large row.
const WAITING: usize = 256;
/// How often the server is told what is durable.
const STATUS: Duration = Duration::from_secs(1);

/// A replication session on a database: it makes a slot, keeps its snapshot for as long as it does nothing else, and
/// then streams. One session does all of it, so that nothing is lost in between.
pub struct SlotSession {
    client: ReplicationClient,
    slot: String,
}

impl std::fmt::Debug for SlotSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotSession").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// What a database held when a slot was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What to name it by in `SET TRANSACTION SNAPSHOT`. It is there for as long as the session is not used.
    pub name: String,
    /// Everything that was committed before is in the snapshot; the stream has everything after.
    pub consistent: Lsn,
}

impl SlotSession {
    /// Opens the session on the database that changes are read from, as the mover.
    ///
    /// # Errors
    /// [`StreamError::Unsupported`] for a socket in a path that is no text; the first command tells whether the server
    /// let us in.
    pub async fn open(
        source: &ConnectionTarget,
        move_id: Uuid,
        direction: Direction,
    ) -> Result<Self, StreamError> {
        let slot = stream_name(move_id, direction);
        let what = match direction {
            Direction::Forward => "stream-fwd",
            Direction::Reverse => "stream-rev",
        };
        let config = config(source, &slot)?.with_application_name(session_name(move_id, what));
        let client = ReplicationClient::connect_gated(config).await.map_err(failed)?;
        Ok(Self { client, slot })
    }

    /// Asks the server who it is, which it tells whoever may stream from it, and ends the session.
    ///
    /// # Errors
    /// [`StreamError::Session`]: the server let nobody in, or does not stream.
    pub async fn identify(mut self) -> Result<(), StreamError> {
        self.client.simple_query("IDENTIFY_SYSTEM").await.map_err(failed)?;
        Ok(())
    }

    /// Makes the slot.
    ///
    /// # Errors
    /// [`StreamError`]; a slot of the name that is there already is the server's refusal (SQLSTATE 42710).
    ///
    /// # Cancel safety
    /// The slot may be made although the future was dropped; [`drop_slot`](super::drop_slot) removes it.
    pub async fn create(&mut self) -> Result<Snapshot, StreamError> {
        // Before it is let in the session has no name by which it could be ended, so nothing that makes anything is sent.
        self.client.simple_query("IDENTIFY_SYSTEM").await.map_err(failed)?;
        let sql = format!("CREATE_REPLICATION_SLOT \"{}\" LOGICAL pgoutput (SNAPSHOT 'export')", self.slot);
        let rows = self.client.simple_query(&sql).await.map_err(failed)?;
        let row = rows.first().ok_or(StreamError::Answer("which slot it made"))?;
        let consistent = column(row, 1).and_then(|text| text.parse().ok());
        Ok(Snapshot {
            consistent: consistent.ok_or(StreamError::Answer("where the slot begins"))?,
            name: column(row, 2).ok_or(StreamError::Answer("which snapshot it exported"))?,
        })
    }

    /// Streams from where the slot stands, and says that everything up to `durable` is where it was to go. What is
    /// delivered again is for whoever applies it to know. The snapshot is gone.
    ///
    /// # Errors
    /// [`StreamError`]; a slot that another session reads is the server's refusal (SQLSTATE 55006).
    pub async fn start(mut self, durable: Lsn) -> Result<ChangeStream, StreamError> {
        self.client.start().await.map_err(failed)?;
        self.client.wait_started().await.map_err(failed)?;
        let mut stream = ChangeStream { client: self.client };
        stream.acknowledge(durable);
        Ok(stream)
    }
}

fn failed(error: PgWireError) -> StreamError {
    StreamError::Session(Box::new(error))
}

fn column(row: &QueryRow, place: usize) -> Option<String> {
    let bytes = row.get(place)?.as_ref()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn config(source: &ConnectionTarget, slot: &str) -> Result<ReplicationConfig, StreamError> {
    let password = source.password().map_or("", |password| password.expose_secret());
    let (user, database) = (source.user(), source.database());
    let config = match source.host() {
        ServerHost::Socket(dir) => {
            let dir = dir.to_str().ok_or(StreamError::Unsupported("a socket whose path is not UTF-8"))?;
            ReplicationConfig::unix(dir, source.port(), user, password, database, slot, slot)
        }
        ServerHost::Tcp(host) => ReplicationConfig::new(host, user, password, database, slot, slot)
            .with_port(source.port())
            .with_tls(tls(source)),
    };
    Ok(config.with_binary(true).with_buffer_size(WAITING).with_status_interval(STATUS))
}

/// As the driver of all other sessions understands the modes: without a certificate of its own, the server's is
/// compared with those that browsers trust.
fn tls(source: &ConnectionTarget) -> TlsConfig {
    let mode = match source.ssl_mode() {
        SslMode::Disable => pgwire_replication::SslMode::Disable,
        SslMode::Prefer => pgwire_replication::SslMode::Prefer,
        SslMode::Require => pgwire_replication::SslMode::Require,
        SslMode::VerifyCa => pgwire_replication::SslMode::VerifyCa,
        SslMode::VerifyFull => pgwire_replication::SslMode::VerifyFull,
    };
    TlsConfig { mode, ca_pem_path: source.ssl_root_cert().map(Path::to_path_buf), ..TlsConfig::default() }
}

/// A stream of changes out of a slot.
pub struct ChangeStream {
    client: ReplicationClient,
}

impl std::fmt::Debug for ChangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeStream").finish_non_exhaustive()
    }
}

#[async_trait]
impl Changes for ChangeStream {
    async fn next(&mut self) -> Result<Event, StreamError> {
        let event = self.client.recv().await.map_err(failed)?;
        let lsn = |lsn: pgwire_replication::Lsn| Lsn(lsn.as_u64());
        Ok(match event.ok_or(StreamError::Ended)? {
            ReplicationEvent::KeepAlive { wal_end, .. } => Event::Idle(lsn(wal_end)),
            ReplicationEvent::XLogData { data, .. } => Event::Message(decode(data)?),
            ReplicationEvent::Begin { final_lsn, xid, .. } => {
                Event::Message(Message::Begin { final_lsn: lsn(final_lsn), xid })
            }
            ReplicationEvent::Commit { lsn: commit, end_lsn, .. } => {
                Event::Message(Message::Commit { commit_lsn: lsn(commit), end_lsn: lsn(end_lsn) })
            }
            ReplicationEvent::Message { transactional, lsn: at, prefix, content } => {
                Event::Message(Message::Logical { transactional, lsn: lsn(at), prefix, content })
            }
            ReplicationEvent::StoppedAt { .. } => return Err(StreamError::Ended),
        })
    }

    fn acknowledge(&mut self, lsn: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn::from_u64(lsn.0));
    }
}
