//! Rows that were read and are not written yet.
//!
//! As long as a snapshot is read from, its database keeps every version of every row that the snapshot may see, of all
//! tenants: a row that changes a hundred times a second grows a tail of thousands of versions, and each change of it
//! finds its way through all of them. A copy that is paced would keep its snapshot for as long as writing takes. So it
//! reads ahead of that, and lets the snapshot go with the last row.
//!
//! What is more than a few blocks ahead is spilled: into files without a name in the directory for temporary files, which
//! nobody else can open and the system takes back with the process. [`SpillRoom`] bounds them. Where there is no room, or
//! no file can be written, reading waits for writing.
//!
//! The system is told to write a file out as it grows. By itself it would begin half a minute later, with hundreds of
//! megabytes at once, and a server that flushes a commit to the same disk would wait behind them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::{env, io};

use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;

use super::block::BLOCK;

/// Pieces of a stream that are in memory at once, at most.
const IN_MEMORY: usize = 16;
/// Bytes after which a file is passed on.
const FILE: u64 = 16 << 20;
/// Bytes that are written out at one go.
const WRITTEN_OUT: u64 = 1 << 20;
/// Bytes that are left to others on the file system with the files.
const LEFT_FREE: u64 = 2 << 30;

/// How much may lie in files at once. Clones share it; a process has one for all of its copies.
#[derive(Debug, Clone)]
pub struct SpillRoom {
    files: Arc<Semaphore>,
    make: fn() -> io::Result<std::fs::File>,
    write_out: WriteOut,
}

/// Has the system begin to write these bytes of a file out: from, until.
type WriteOut = fn(&std::fs::File, u64, u64) -> io::Result<()>;

impl SpillRoom {
    /// So many files, each of 16 MiB and a block.
    #[must_use]
    pub fn of_files(files: usize) -> Self {
        let files = Arc::new(Semaphore::new(files.min(Semaphore::MAX_PERMITS)));
        Self { files, make: nameless, write_out: begin_to_write_out }
    }

    /// A file, if there is room for it.
    async fn file(&self) -> io::Result<Option<Spill>> {
        let Ok(permit) = Arc::clone(&self.files).try_acquire_owned() else { return Ok(None) };
        let file = spawn_blocking(self.make).await.map_err(io::Error::other)??;
        let disk = Arc::new(file.try_clone()?);
        Ok(Some(Spill {
            file: File::from_std(file),
            disk,
            pieces: Vec::new(),
            bytes: 0,
            written_out: 0,
            write_out: self.write_out,
            permit,
        }))
    }
}

impl Default for SpillRoom {
    /// 1 GiB and a bit.
    fn default() -> Self {
        Self::of_files(64)
    }
}

/// What is passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A table begins: its place in the plan.
    Table(usize),
    /// Bytes of it, which begin and end anywhere, and how many of its rows have gone by at their end.
    Chunk(Vec<u8>, u64),
    /// It ends, and has so many rows.
    End(u64),
}

/// Whoever writes has gone, and says why.
#[derive(Debug)]
pub(super) struct Gone;

/// Where a stream puts what it has read.
pub(super) struct Ahead {
    passed: mpsc::Sender<Passed>,
    /// Whether it may be ahead of what is written by more than a few blocks.
    room: Option<SpillRoom>,
    /// Files that wait to be passed on. What comes after them goes into another.
    full: VecDeque<Spill>,
    filling: Option<Spill>,
}

/// Where it is written from.
pub(super) struct Pieces {
    passed: mpsc::Receiver<Passed>,
    spilled: Option<Spilled>,
}

enum Passed {
    Piece(Piece),
    Spill(Spill),
}

/// Both ends of a stream. Without room it reads no further ahead than a few blocks.
pub(super) fn ahead(room: Option<SpillRoom>) -> (Ahead, Pieces) {
    let (pass, passed) = mpsc::channel(IN_MEMORY);
    (Ahead { passed: pass, room, full: VecDeque::new(), filling: None }, Pieces { passed, spilled: None })
}

impl Ahead {
    /// More of it. Waits while there is no room.
    pub(super) async fn put(&mut self, piece: Piece) -> Result<(), Gone> {
        self.pass_what_may_go()?;
        if self.full.is_empty() && self.filling.is_none() {
            match self.passed.try_reserve() {
                Ok(place) => {
                    place.send(Passed::Piece(piece));
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Closed(())) => return Err(Gone),
                Err(mpsc::error::TrySendError::Full(())) => {}
            }
        }
        if self.spills(&piece).await {
            return Ok(());
        }
        self.pass_all().await?;
        self.pass(Passed::Piece(piece)).await
    }

    /// Nothing more comes. Returns when everything is passed on.
    pub(super) async fn finish(mut self) -> Result<(), Gone> {
        self.pass_all().await
    }

    /// Passes files on as far as nobody has to wait; the one that is being filled when it is waited for.
    fn pass_what_may_go(&mut self) -> Result<(), Gone> {
        let waited_for = || self.passed.capacity() == self.passed.max_capacity();
        if self.full.is_empty() && waited_for() {
            self.full.extend(self.filling.take());
        }
        while !self.full.is_empty() {
            match self.passed.try_reserve() {
                Ok(place) => place.send(Passed::Spill(self.full.pop_front().expect("it is not empty"))),
                Err(mpsc::error::TrySendError::Closed(())) => return Err(Gone),
                Err(mpsc::error::TrySendError::Full(())) => break,
            }
        }
        Ok(())
    }

    async fn pass_all(&mut self) -> Result<(), Gone> {
        self.full.extend(self.filling.take());
        while let Some(spill) = self.full.pop_front() {
            self.pass(Passed::Spill(spill)).await?;
        }
        Ok(())
    }

    async fn pass(&self, what: Passed) -> Result<(), Gone> {
        self.passed.send(what).await.map_err(|_| Gone)
    }

    /// Whether the piece is in a file now.
    async fn spills(&mut self, piece: &Piece) -> bool {
        let Some(room) = &self.room else { return false };
        let mut spill = match self.filling.take() {
            Some(spill) => spill,
            None => match room.file().await {
                Ok(Some(spill)) => spill,
                Ok(None) => return false,
                Err(error) => return self.spills_no_more(&error),
            },
        };
        let added = spill.add(piece).await;
        if spill.bytes < FILE {
            self.filling = Some(spill);
        } else {
            self.full.push_back(spill);
        }
        match added {
            Ok(()) => true,
            Err(error) => self.spills_no_more(&error),
        }
    }

    fn spills_no_more(&mut self, error: &io::Error) -> bool {
        self.room = None;
        tracing::warn!(
            error = error as &dyn std::error::Error, directory = %env::temp_dir().display(),
            "nothing can be spilled there: a move reads no faster than it writes, and holds its snapshot for longer"
        );
        false
    }
}

impl Pieces {
    /// The next one; none behind the last.
    ///
    /// # Errors
    /// When what was spilled cannot be read back.
    pub(super) async fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some(spilled) = &mut self.spilled {
                if let Some(piece) = spilled.next().await? {
                    return Ok(Some(piece));
                }
                self.spilled = None;
            }
            match self.passed.recv().await {
                Some(Passed::Spill(spill)) => self.spilled = Some(spill.read().await?),
                Some(Passed::Piece(piece)) => return Ok(Some(piece)),
                None => return Ok(None),
            }
        }
    }
}

/// Pieces in a file: the bytes in it, the rest here.
struct Spill {
    file: File,
    /// The same, for telling the system what to do with it.
    disk: Arc<std::fs::File>,
    pieces: Vec<Entry>,
    bytes: u64,
    /// So many of them are on their way to the disk, or there.
    written_out: u64,
    write_out: WriteOut,
    permit: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Table(usize),
    /// A chunk of so many bytes.
    Chunk(usize, u64),
    End(u64),
}

impl Spill {
    /// A chunk that is not there whole is not there.
    async fn add(&mut self, piece: &Piece) -> io::Result<()> {
        let entry = match piece {
            Piece::Table(place) => Entry::Table(*place),
            Piece::End(rows) => Entry::End(*rows),
            Piece::Chunk(bytes, rows) => {
                self.file.write_all(bytes).await?;
                // What was handed to the system without an error.
                self.file.flush().await?;
                self.bytes += bytes.len() as u64;
                self.write_out().await;
                Entry::Chunk(bytes.len(), *rows)
            }
        };
        self.pieces.push(entry);
        Ok(())
    }

    /// Has the system begin to write out what came since it last was told to. A whole file's last part is, that of others
    /// is small.
    async fn write_out(&mut self) {
        let (from, until) = (self.written_out, self.bytes);
        if until - from < WRITTEN_OUT && until < FILE {
            return;
        }
        let (disk, write_out) = (Arc::clone(&self.disk), self.write_out);
        // The disk may be busy, and whoever reads ahead of it may wait.
        let told = spawn_blocking(move || write_out(&disk, from, until)).await;
        if let Err(error) = told.map_err(io::Error::other).flatten() {
            // It is advice: the bytes are there, and are written out when the system likes.
            tracing::debug!(%error, "the system takes no advice about a spilled file");
        }
        self.written_out = until;
    }

    async fn read(mut self) -> io::Result<Spilled> {
        self.file.rewind().await?;
        Ok(Spilled { file: self.file, pieces: self.pieces.into_iter(), _permit: self.permit })
    }
}

/// A file for what is spilled, unless that would take memory or the last of a disk.
fn nameless() -> io::Result<std::fs::File> {
    let directory = env::temp_dir();
    #[cfg(target_os = "linux")]
    if nix::sys::statfs::statfs(&directory)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
        return Err(io::Error::other("it is in memory; TMPDIR can name another"));
    }
    let system = nix::sys::statvfs::statvfs(&directory)?;
    if system.fragment_size().saturating_mul(system.blocks_available()) < LEFT_FREE {
        return Err(io::Error::from(io::ErrorKind::StorageFull));
    }
    tempfile::tempfile_in(directory)
}

/// Has the system begin to write bytes out. Those that are not on the disk yet stay in memory; those that are may be dropped
/// from it.
#[cfg(target_os = "linux")]
fn begin_to_write_out(file: &std::fs::File, from: u64, until: u64) -> io::Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

    let (from, length) = (i64::try_from(from), i64::try_from(until - from));
    let (from, length) = (from.map_err(io::Error::other)?, length.map_err(io::Error::other)?);
    Ok(posix_fadvise(file, from, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Elsewhere the system does it in its own time.
#[cfg(not(target_os = "linux"))]
const fn begin_to_write_out(_: &std::fs::File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}

/// A file that is being read.
struct Spilled {
    file: File,
    pieces: std::vec::IntoIter<Entry>,
    _permit: OwnedSemaphorePermit,
}

impl Spilled {
    async fn next(&mut self) -> io::Result<Option<Piece>> {
        Ok(match self.pieces.next() {
            None => None,
            Some(Entry::Table(place)) => Some(Piece::Table(place)),
            Some(Entry::End(rows)) => Some(Piece::End(rows)),
            Some(Entry::Chunk(length, rows)) => {
                let mut bytes = vec![0; length];
                self.file.read_exact(&mut bytes).await?;
                Some(Piece::Chunk(bytes, rows))
            }
        })
    }
}

const _: () = assert!((BLOCK as u64) < FILE, "a file has room for many blocks");

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;

    use super::*;

    /// Wherever the tests run: in memory, too.
    fn room(files: usize) -> SpillRoom {
        SpillRoom { make: tempfile::tempfile, ..SpillRoom::of_files(files) }
    }

    fn chunk(rows: u64) -> Piece {
        Piece::Chunk(rows.to_be_bytes().repeat(1 << 17), rows)
    }

    /// Tables of one chunk of a mebibyte each.
    fn tables(number: usize) -> Vec<Piece> {
        (0..number).flat_map(|place| [Piece::Table(place), chunk(place as u64), Piece::End(1)]).collect()
    }

    async fn put(ahead: &mut Ahead, pieces: Vec<Piece>) {
        for piece in pieces {
            ahead.put(piece).await.unwrap();
        }
    }

    async fn drain(mut pieces: Pieces) -> Vec<Piece> {
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await.unwrap() {
            all.push(piece);
        }
        all
    }

    #[tokio::test]
    async fn what_is_not_written_yet_is_spilled_and_comes_in_its_order() {
        let room = room(3);
        let (mut ahead, pieces) = ahead(Some(room.clone()));
        put(&mut ahead, tables(40)).await;
        // Five tables and a begin are in memory; two files of 16 chunks are full, and a third has the rest.
        assert_eq!((ahead.full.len(), room.files.available_permits()), (2, 0));
        let (drained, finished) = tokio::join!(drain(pieces), ahead.finish());
        finished.unwrap();
        assert!(drained == tables(40));
        assert_eq!(room.files.available_permits(), 3, "the files are gone");
    }

    #[tokio::test]
    async fn what_is_spilled_is_written_out_as_it_grows() {
        /// What was asked for, and how long the file was then. No other test asks for it.
        static ASKED: Mutex<Vec<(u64, u64, u64)>> = Mutex::new(Vec::new());
        let noted: WriteOut = |file, from, until| {
            ASKED.lock().unwrap().push((from, until, file.metadata()?.len()));
            begin_to_write_out(file, from, until)
        };
        let (mut ahead, _pieces) = ahead(Some(SpillRoom { write_out: noted, ..room(2) }));
        let mut blocks = (0..).map(|n| Piece::Chunk(vec![0; BLOCK], n));
        put(&mut ahead, blocks.by_ref().take(IN_MEMORY + 40).collect()).await;
        assert_eq!(ahead.filling.as_ref().unwrap().bytes, 40 * BLOCK as u64);
        let mib = |from, until| (from * WRITTEN_OUT, until * WRITTEN_OUT, until * WRITTEN_OUT);
        assert_eq!(*ASKED.lock().unwrap(), [mib(0, 1), mib(1, 2)], "and it had been written before that");
        put(&mut ahead, blocks.take(216).collect()).await;
        assert_eq!((ahead.full[0].bytes, ASKED.lock().unwrap().last().copied()), (FILE, Some(mib(15, 16))));
    }

    #[tokio::test]
    async fn reading_waits_where_there_is_no_room() {
        for room in [None, Some(room(0))] {
            let (mut ahead, mut pieces) = ahead(room);
            let mut all = tables(IN_MEMORY);
            let rest = all.split_off(IN_MEMORY);
            put(&mut ahead, all).await;
            let mut waits = Box::pin(put(&mut ahead, rest));
            assert!(waits.as_mut().now_or_never().is_none());
            assert_eq!(pieces.next().await.unwrap(), Some(Piece::Table(0)));
            assert!(waits.as_mut().now_or_never().is_none());
        }
        // One file, which is full with the sixteenth chunk: what comes before and behind it is no chunk.
        let (mut ahead, pieces) = ahead(Some(room(1)));
        let mut all = tables(40);
        let rest = all.split_off(IN_MEMORY + 3 * 16 - 2);
        put(&mut ahead, all).await;
        let mut waits = Box::pin(async {
            put(&mut ahead, rest).await;
            ahead.finish().await.unwrap();
        });
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(tokio::join!(drain(pieces), waits).0 == tables(40));
    }

    #[tokio::test]
    async fn whoever_waits_has_what_is_being_filled() {
        let (mut ahead, mut pieces) = ahead(Some(room(1)));
        put(&mut ahead, tables(6)).await;
        assert!(ahead.filling.is_some());
        for _ in 0..IN_MEMORY {
            pieces.next().await.unwrap().unwrap();
        }
        ahead.put(Piece::Table(6)).await.unwrap();
        assert!(ahead.filling.is_none());
        let mut all = tables(6);
        all.push(Piece::Table(6));
        for piece in all.split_off(IN_MEMORY) {
            assert_eq!(pieces.next().await.unwrap(), Some(piece));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_spilled_is_passed_on_behind_what_was() {
        let (mut ahead, pieces) = ahead(Some(room(2)));
        put(&mut ahead, tables(6)).await;
        // As on a disk that is full: what is written fails, what was is there.
        let filling = ahead.filling.as_mut().unwrap();
        let read_only = std::fs::File::open(format!("/dev/fd/{}", fd(&filling.file))).unwrap();
        filling.file = File::from_std(read_only);
        let all = async {
            put(&mut ahead, tables(8)).await;
            assert!(ahead.room.is_none());
            ahead.finish().await.unwrap();
        };
        let mut expected = tables(6);
        expected.extend(tables(8));
        // In that order: nothing is waited for until it has failed.
        let ((), drained) = tokio::join!(all, drain(pieces));
        assert!(drained == expected);
    }

    fn fd(file: &File) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(file)
    }

    #[tokio::test]
    async fn nobody_reads_for_one_who_has_gone() {
        let (mut ahead, pieces) = ahead(Some(room(1)));
        drop(pieces);
        assert!(ahead.put(Piece::Table(0)).now_or_never().unwrap().is_err());
    }
}
