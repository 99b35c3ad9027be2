//! A network between two processes of one machine: a proxy that hands on what it gets after a while.
//!
//! Threads of its own, so that what it costs is not taken for the cost of what is measured, and the kernel's sleep,
//! which is finer than the runtime's timer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Listens on a port of this machine and connects each client to a socket, `delay` away in each direction.
///
/// # Panics
/// When the system gives no port.
#[must_use]
pub fn to_socket(socket: PathBuf, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener.local_addr().expect("it listens somewhere");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client connects");
            client.set_nodelay(true).expect("a socket can be told not to wait");
            let server = UnixStream::connect(&socket).expect("Postgres listens");
            let (from_client, to_client) = (client.try_clone().expect("a handle"), client);
            let (from_server, to_server) = (server.try_clone().expect("a handle"), server);
            hand_on(from_client, to_server, delay, |server| server.shutdown(Shutdown::Write));
            hand_on(from_server, to_client, delay, |client: &TcpStream| client.shutdown(Shutdown::Write));
        }
    });
    address
}

/// One thread takes what comes and when, another gives it on when its time has come.
fn hand_on<R, W>(
    mut from: R,
    mut to: W,
    delay: Duration,
    end: impl FnOnce(&W) -> std::io::Result<()> + Send + 'static,
) where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        // Either side may go at any time; then the other is told.
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if send.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receive {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
        drop(end(&to));
    });
}
