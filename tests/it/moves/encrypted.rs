//! Streams over encrypted connections, as databases on other servers ask for.

use std::fs::{metadata, set_permissions, write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stagesub_storage::embedded::{Cluster, ClusterOptions};
use stagesub_storage::moves::progress::Direction;
use stagesub_storage::moves::slot::{SlotSession, StreamError, stream_name};
use stagesub_storage::target::ConnectionTarget;
use stagesub_tests::database::{connect, run};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::tenant_tx::lab::{scalar, until};

/// Lets nobody in over TCP who does not encrypt.
const HBA: &str = "local all all scram-sha-256
    hostssl all all all scram-sha-256
    hostssl replication all all scram-sha-256";

/// A server that is reached as `localhost`, at a port that is free.
struct Server {
    /// Kept for as long as this is.
    _cluster: Cluster,
    port: u16,
    certificates: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        // The server's own port is fixed, so it has an address of its own.
        let [a, b] = std::process::id().to_be_bytes()[2..] else { unreachable!("a number has four bytes") };
        let address = Ipv4Addr::new(127, 20, a, b.max(1));
        let options = ClusterOptions::throwaway().setting("listen_addresses", &address.to_string());
        let cluster = Cluster::start(options).await.unwrap();

        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = server.signed_by(&key, &authority).unwrap();
        give(&cluster, "server.crt", &server.pem());
        give(&cluster, "server.key", &key.serialize_pem());
        give(&cluster, "pg_hba.conf", HBA);
        let certificates = tempfile::tempdir().unwrap();
        write(certificates.path().join("authority.pem"), authority.pem()).unwrap();
        write(certificates.path().join("another.pem"), self::authority().pem()).unwrap();

        let mut admin = connect(cluster.admin()).await;
        run(&mut admin, "CREATE ROLE streamer SUPERUSER LOGIN PASSWORD 'streamer'").await;
        run(&mut admin, "ALTER SYSTEM SET ssl = on").await;
        run(&mut admin, "SELECT pg_reload_conf()").await;
        until("the server encrypts", async || {
            scalar::<String>(&mut connect(cluster.admin()).await, "SHOW ssl").await == "on"
        })
        .await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut far = TcpStream::connect((address, 5432)).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { _cluster: cluster, port, certificates }
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.certificates.path().join(name)
    }

    fn reached(&self, host: &str, mode: &str, authority: Option<&Path>) -> ConnectionTarget {
        let authority = authority.map(|path| format!("&sslrootcert={}", path.display())).unwrap_or_default();
        let port = self.port;
        let url = format!("postgres://streamer:streamer@{host}:{port}/postgres?sslmode={mode}{authority}");
        ConnectionTarget::parse(&url).unwrap()
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Puts a file where the server keeps its own, for its eyes alone.
fn give(cluster: &Cluster, name: &str, text: &str) {
    let data = cluster.data_dir().join("pgdata");
    let path = data.join(name);
    write(&path, text).unwrap();
    set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let whose = metadata(&data).unwrap();
    chown(&path, Some(Uid::from_raw(whose.uid())), Some(Gid::from_raw(whose.gid()))).unwrap();
}

/// Makes a slot and begins to stream from it.
async fn streams(source: &ConnectionTarget) -> Result<(), StreamError> {
    let id = Uuid::now_v7();
    run(
        &mut connect(source).await,
        &format!("CREATE PUBLICATION {} FOR ALL TABLES", stream_name(id, Direction::Forward)),
    )
    .await;
    let mut slot = SlotSession::open(source, id, Direction::Forward).await?;
    let snapshot = slot.create().await?;
    slot.start(snapshot.consistent).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_encrypted_as_its_connection_string_says() {
    let server = Server::start().await;
    let (ours, others) = (server.certificate("authority.pem"), server.certificate("another.pem"));
    for (mode, authority) in
        [("prefer", None), ("require", None), ("verify-ca", Some(&*ours)), ("verify-full", Some(&*ours))]
    {
        let streamed = streams(&server.reached("localhost", mode, authority)).await;
        assert!(streamed.is_ok(), "{mode}: {streamed:?}");
    }
    let open = |mode, authority, host| {
        let source = server.reached(host, mode, authority);
        async move { SlotSession::open(&source, Uuid::now_v7(), Direction::Forward).await?.create().await }
    };
    for (mode, authority, host) in [
        // The server wants it.
        ("disable", None, "localhost"),
        // Somebody else's, and one that nobody knows.
        ("verify-ca", Some(&*others), "localhost"),
        ("verify-full", None, "localhost"),
        // Another name than the certificate's.
        ("verify-full", Some(&*ours), "127.0.0.1"),
    ] {
        let refused = open(mode, authority, host).await;
        assert!(matches!(refused, Err(StreamError::Session(_))), "{mode} {host}: {refused:?}");
    }
}
