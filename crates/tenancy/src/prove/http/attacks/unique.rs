//! Texts that no other request has.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// Tells the runs apart.
static RUN: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().simple().to_string());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Letters and digits; another text at each call, in this process and in every other.
pub(in super::super) fn next() -> String {
    format!("{}n{}", RUN.as_str(), NEXT.fetch_add(1, Ordering::Relaxed))
}
