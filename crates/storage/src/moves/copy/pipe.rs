//! One table out of one connection, and into another.

use std::io;

use futures::TryStreamExt as _;
use sqlx::PgConnection;
use sqlx::postgres::PgCopyIn;
use stagesub_tenancy::TenantId;

use super::CopyError;
use super::ahead::{Ahead, Gone, Piece, Pieces};
use super::block::Block;
use super::rows::Rows;
use crate::catalogue::TableName;
use crate::deadline;
use crate::moves::pace::Pace;
use crate::moves::plan::{PlannedColumn, TablePlan};
use crate::moves::session::SILENCE;

/// What is asked of the two sides for one table.
pub(super) struct Statements {
    copy_out: String,
    copy_in: String,
    columns: usize,
}

impl Statements {
    /// COPY takes no parameters. The tenant is a UUID, and names are in quotes.
    pub(super) fn of(table: &TablePlan, tenant: TenantId) -> Self {
        let columns: Vec<String> =
            table.written().map(|column| format!("\"t\".{}", column.quoted())).collect();
        let names: Vec<String> = table.written().map(PlannedColumn::quoted).collect();
        let (name, tenant) = (table.quoted(), tenant.as_uuid());
        Self {
            copy_out: format!(
                "COPY (SELECT {} FROM ONLY {name} AS \"t\" WHERE \"t\".tenant_id = '{tenant}'::uuid) \
                TO STDOUT (FORMAT binary)",
                columns.join(", ")
            ),
            copy_in: format!("COPY {name} ({}) FROM STDIN (FORMAT binary)", names.join(", ")),
            columns: columns.len(),
        }
    }
}

/// What went through.
pub(super) struct Piped {
    /// Rows that the source sent.
    pub(super) sent: u64,
    /// Rows that the target stored.
    pub(super) taken: u64,
}

/// Why a table did not go through.
#[derive(Debug)]
pub(super) enum PipeError {
    Source(sqlx::Error),
    Target(sqlx::Error),
    Spilled(io::Error),
    Gone,
    Malformed(&'static str),
}

impl From<Gone> for PipeError {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl PipeError {
    /// As the copy's error.
    pub(super) fn of(self, table: &TableName) -> CopyError {
        let table = table.clone();
        match self {
            Self::Source(source) => CopyError::Source { table, source },
            Self::Target(source) => CopyError::Target { table, source },
            Self::Spilled(source) => CopyError::Spilled { table, source },
            Self::Gone => CopyError::Malformed { table, what: "it was not written to its end" },
            Self::Malformed(what) => CopyError::Malformed { table, what },
        }
    }
}

/// Reads a table in blocks and passes them on. One without rows has none.
///
/// A source that sends nothing for [`SILENCE`] is as good as lost.
///
/// # Cancel safety
/// The connection is to be closed after it was dropped, and after an error.
pub(super) async fn read(
    source: &mut PgConnection,
    statements: &Statements,
    pace: &Pace,
    ahead: &mut Ahead,
) -> Result<(), PipeError> {
    let mut settled = true;
    let out = source.copy_out_raw(&statements.copy_out).await.map_err(PipeError::Source)?;
    let mut out = deadline::answers(out, SILENCE, &mut settled, || ());
    let (mut block, mut rows) = (Block::new(), Rows::of(statements.columns));
    while let Some(data) = out.try_next().await.map_err(PipeError::Source)? {
        rows.read(&data).map_err(PipeError::Malformed)?;
        let mut rest = &data[..];
        while !rest.is_empty() {
            rest = block.fill(rest);
            if block.is_full() {
                pass(block.take(), rows.count(), pace, ahead).await?;
            }
        }
    }
    let sent = rows.finish().map_err(PipeError::Malformed)?;
    if sent > 0 {
        pass(block.take(), sent, pace, ahead).await?;
    }
    Ok(ahead.put(Piece::End(sent)).await?)
}

async fn pass(bytes: Vec<u8>, rows: u64, pace: &Pace, ahead: &mut Ahead) -> Result<(), Gone> {
    pace.take(bytes.len() as u64).await;
    ahead.put(Piece::Chunk(bytes, rows)).await
}

/// Writes what was read of a table, up to its end. `told` hears of rows and bytes so far. A table without rows is not
/// begun on the target: over TCP the end of a small copy waits some 40 ms for an acknowledgement, and a tenant has many
/// empty tables.
///
/// What the target refuses is heard at the end: until then it throws away what comes.
///
/// A target that takes nothing for [`SILENCE`] is as good as lost. The end has no such bound: there it checks the foreign
/// keys of all rows.
///
/// # Cancel safety
/// The connection is to be closed after it was dropped, and after an error.
pub(super) async fn write(
    pieces: &mut Pieces,
    target: &mut PgConnection,
    statements: &Statements,
    pace: &Pace,
    told: impl Fn(u64, u64) + Send,
) -> Result<Piped, PipeError> {
    let mut sink = Sink { closed: Some(target), open: None, statement: &statements.copy_in };
    let mut bytes = 0;
    loop {
        match pieces.next().await.map_err(PipeError::Spilled)? {
            Some(Piece::Chunk(chunk, rows)) => {
                pace.take(chunk.len() as u64).await;
                sink.send(&chunk).await?;
                bytes += chunk.len() as u64;
                told(rows, bytes);
            }
            Some(Piece::End(sent)) => {
                told(sent, bytes);
                return Ok(Piped { sent, taken: sink.finish().await? });
            }
            Some(Piece::Table(_)) | None => return Err(PipeError::Malformed("it ends before its end")),
        }
    }
}

/// Where chunks go. The target is asked to take them with the first one.
struct Sink<'c> {
    closed: Option<&'c mut PgConnection>,
    open: Option<PgCopyIn<&'c mut PgConnection>>,
    statement: &'c str,
}

impl Sink<'_> {
    async fn send(&mut self, chunk: &[u8]) -> Result<(), PipeError> {
        if let Some(conn) = self.closed.take() {
            self.open = Some(conn.copy_in_raw(self.statement).await.map_err(PipeError::Target)?);
        }
        if let Some(open) = &mut self.open {
            let mut settled = true;
            let sent = deadline::answer(open.send(chunk), SILENCE, &mut settled, || ()).await;
            sent.map(drop).map_err(PipeError::Target)?;
        }
        Ok(())
    }

    /// How many rows the target stored.
    async fn finish(self) -> Result<u64, PipeError> {
        match self.open {
            Some(open) => open.finish().await.map_err(PipeError::Target),
            None => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::moves::plan::tests::odd;

    #[test]
    fn names_are_quoted_and_computed_columns_left_out() {
        let statements = Statements::of(&odd("Order\"; DROP", &[]), TenantId::from_uuid(Uuid::from_u128(7)));
        assert_eq!(
            statements.copy_out,
            r#"COPY (SELECT "t"."tenant_id", "t"."no" FROM ONLY "Odd ""Shop"."Order""; DROP" AS "t" WHERE "t".tenant_id = '00000000-0000-0000-0000-000000000007'::uuid) TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            statements.copy_in,
            r#"COPY "Odd ""Shop"."Order""; DROP" ("tenant_id", "no") FROM STDIN (FORMAT binary)"#
        );
        assert_eq!(statements.columns, 2);
    }
}
