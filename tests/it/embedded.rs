//! The Postgres launcher on the installed binaries, each test with clusters of its own.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::{Connection, PgConnection};
use stagesub_storage::embedded::{Cluster, ClusterOptions, Durability, LaunchError};

/// `durable` or `throwaway`.
const HOLDER_DURABILITY: &str = "STAGESUB_TEST_CLUSTER_DURABILITY";

/// Names the data directory to the copy of this program that [`outlived`] starts.
const HOLDER: &str = "STAGESUB_TEST_CLUSTER_HOLDER";

fn durable(dir: &Path) -> ClusterOptions {
    ClusterOptions::new(dir, Durability::Durable)
}

async fn connect(cluster: &Cluster) -> PgConnection {
    PgConnection::connect_with(&cluster.admin().to_connect_options()).await.unwrap()
}

async fn ask(cluster: &Cluster, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(&mut connect(cluster).await).await.unwrap()
}

async fn write_row(cluster: &Cluster) {
    let sql = "CREATE TABLE kept AS SELECT 'acknowledged' AS word";
    sqlx::query(sql).execute(&mut connect(cluster).await).await.unwrap();
}

async fn read_row(cluster: &Cluster) -> String {
    ask(cluster, "SELECT word FROM kept").await
}

fn kill_hard(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn durable_cluster_has_its_settings_and_keeps_data_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    for (sql, expected) in [
        ("SHOW wal_level", "logical"),
        ("SHOW fsync", "on"),
        ("SHOW data_checksums", "on"),
        ("SHOW listen_addresses", ""),
        ("SHOW server_encoding", "UTF8"),
        ("SHOW password_encryption", "scram-sha-256"),
        ("SHOW max_connections", "200"),
    ] {
        assert_eq!(ask(&cluster, sql).await, expected, "{sql}");
    }
    let password_file = cluster.data_dir().join("superuser-password");
    assert_eq!(std::fs::metadata(password_file).unwrap().permissions().mode() & 0o777, 0o600);
    write_row(&cluster).await;
    cluster.stop().await.unwrap();

    let again = Cluster::start(durable(dir.path())).await.unwrap();
    assert!(!again.was_adopted());
    assert_eq!(read_row(&again).await, "acknowledged");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn wrong_password_and_no_password_are_refused() {
    let cluster = Cluster::start(ClusterOptions::throwaway()).await.unwrap();
    let wrong = cluster.admin().with_user("postgres", "wrong".to_owned().into());
    PgConnection::connect_with(&wrong.to_connect_options()).await.unwrap_err();
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn second_start_on_a_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Cluster::start(durable(dir.path())).await.unwrap();
    let second = Cluster::start(durable(dir.path())).await.unwrap_err();
    assert!(matches!(second, LaunchError::InUse { .. }), "{second}");
    assert_eq!(ask(&first, "SELECT 'serves'").await, "serves");
    first.stop().await.unwrap();
}

#[tokio::test]
async fn postgres_killed_alone_is_started_again_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    write_row(&cluster).await;
    let first = cluster.pid().unwrap();
    let mut pid = cluster.watch_pid();
    kill_hard(first);
    let second = pid.wait_for(|pid| pid.is_some_and(|pid| pid != first)).await.unwrap().unwrap();
    assert_ne!(first, second);
    assert_eq!(read_row(&cluster).await, "acknowledged");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn postgres_that_outlived_its_server_is_adopted_supervised_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let pid = outlived(dir.path(), "durable");
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    assert!(cluster.was_adopted());
    assert_eq!(cluster.pid(), Some(pid));
    assert_eq!(read_row(&cluster).await, "acknowledged");

    let mut watched = cluster.watch_pid();
    kill_hard(pid);
    let restarted = watched.wait_for(|now| now.is_some_and(|now| now != pid)).await.unwrap().unwrap();
    assert_ne!(restarted, pid);
    assert_eq!(read_row(&cluster).await, "acknowledged");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn server_and_postgres_killed_together_serve_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    kill_hard(outlived(dir.path(), "durable"));
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    assert_eq!(read_row(&cluster).await, "acknowledged");
    cluster.stop().await.unwrap();
}

/// Starts a cluster in another process, kills that process, and returns the pid of the Postgres it left.
fn outlived(dir: &Path, durability: &str) -> i32 {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::holds_a_cluster_when_told_to", "--nocapture"])
        .env(HOLDER, dir)
        .env(HOLDER_DURABILITY, durability)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = server.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    let pid = loop {
        assert_eq!(
            output.read(&mut byte).unwrap(),
            1,
            "the holder ended: {}",
            String::from_utf8_lossy(&said)
        );
        said.push(byte[0]);
        let text = String::from_utf8_lossy(&said);
        if let Some((_, rest)) = text.split_once("HOLDING ")
            && let Some((pid, _)) = rest.split_once(' ')
        {
            break pid.parse().unwrap();
        }
    };
    server.kill().unwrap();
    server.wait().unwrap();
    pid
}

/// The other process of [`outlived`]; by itself it has nothing to check.
#[tokio::test]
async fn holds_a_cluster_when_told_to() {
    let Some(dir) = std::env::var_os(HOLDER) else { return };
    let durability = match std::env::var(HOLDER_DURABILITY).unwrap().as_str() {
        "durable" => Durability::Durable,
        "throwaway" => Durability::Throwaway,
        other => panic!("{other}"),
    };
    let cluster = Cluster::start(ClusterOptions::new(Path::new(&dir), durability)).await.unwrap();
    write_row(&cluster).await;
    println!("HOLDING {} ", cluster.pid().unwrap());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn throwaway_cluster_goes_away_with_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    let pid = outlived(&data, "throwaway");
    let gone = async {
        while data.exists() || kill(Pid::from_raw(pid), None).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn dropped_cluster_leaves_a_directory_that_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    write_row(&cluster).await;
    drop(cluster);
    let again = Cluster::start(durable(dir.path())).await.unwrap();
    assert_eq!(read_row(&again).await, "acknowledged");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn initdb_that_was_killed_in_the_middle_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    // What a kill leaves: a staging directory with a part of a cluster, and the password already kept.
    let staging = dir.path().join("pgdata.new");
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("PG_VERSION"), "15\n").unwrap();
    std::fs::write(dir.path().join("initdb-password"), "half").unwrap();
    std::fs::write(dir.path().join("superuser-password.new"), "half").unwrap();
    let cluster = Cluster::start(durable(dir.path())).await.unwrap();
    assert_eq!(ask(&cluster, "SELECT 'serves'").await, "serves");
    assert!(!staging.exists());
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn long_data_directory_serves_on_a_short_socket() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(120));
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(ClusterOptions::new(&long, Durability::Throwaway)).await.unwrap();
    let socket_dir = cluster.socket_dir().to_path_buf();
    assert!(!socket_dir.starts_with(&long));
    assert_eq!(std::fs::metadata(&socket_dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(ask(&cluster, "SELECT 'serves'").await, "serves");
    cluster.stop().await.unwrap();
    assert!(!long.exists() && !socket_dir.exists());
}

#[tokio::test]
async fn unreachable_directory_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let closed = dir.path().canonicalize().unwrap().join("closed");
    std::fs::create_dir(&closed).unwrap();
    // Root passes by permissions and the user that runs Postgres for it does not.
    let mode = if Uid::effective().is_root() { 0o700 } else { 0o000 };
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).unwrap();
    let error = Cluster::start(durable(&closed.join("data"))).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&closed.display().to_string()), "{text}");
    if Uid::effective().is_root() {
        assert!(matches!(error, LaunchError::Unreachable { .. }), "{text}");
        assert!(text.contains("chmod o+x"), "{text}");
    }
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn wrong_setting_is_reported_in_the_words_of_postgres() {
    let options = ClusterOptions::throwaway().setting("no_such_setting", "1");
    let error = Cluster::start(options).await.unwrap_err();
    assert!(matches!(&error, LaunchError::DidNotStart { reason, .. } if reason.contains("no_such_setting")));
}
