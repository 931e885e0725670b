//! Files of secrets and certificates, read anew each time they are needed: they may have been replaced. Whoever can write such a path
//! can put anything there, and what lies on a network may never answer: neither holds up more than the sink that asks.

use std::{path::Path, time::Duration};

use crate::bounded::read_bounded;

/// Longest secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Longest file of certificates: the authorities of a whole system are a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A disk that takes longer is away.
const LIMIT: Duration = Duration::from_secs(5);

/// Does what may block where it holds up nobody, and gives it up after a while.
pub(super) async fn apart<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    within(LIMIT, what).await
}

async fn within<T: Send + 'static>(
    limit: Duration,
    what: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::time::timeout(limit, tokio::task::spawn_blocking(what)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its files could not be read within {limit:?}")),
    }
}

/// What is in a secret's file; white space around it is no part of it.
pub(super) async fn secret(path: &Path) -> Result<String, String> {
    let path = path.to_owned();
    apart(move || read_secret(&path)).await
}

/// The same where blocking is no matter.
pub(super) fn read_secret(path: &Path) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("cannot read {}: {why}", path.display());
    let bytes = read(path, SECRET_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(failed(&"it is empty"));
    }
    Ok(text.to_owned())
}

/// What is in a file of certificates or keys.
pub(super) fn pem(path: &Path) -> Result<Vec<u8>, String> {
    read(path, PEM_BYTES_MAX)
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    read_bounded(path, bytes_max)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_regular_file_of_some_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        let refused = |part: &str| {
            let why = read_secret(&file).expect_err(part);
            assert!(why.contains(part) && why.contains("secret"), "{why}");
        };
        refused("No such file");
        std::fs::write(&file, " s3cret\n").expect("it is written");
        assert_eq!(read_secret(&file).as_deref(), Ok("s3cret"));
        std::fs::write(&file, "\n").expect("it is written");
        refused("empty");
        std::fs::write(&file, [0xff, 0xfe]).expect("it is written");
        refused("UTF-8");
        std::fs::write(&file, "x".repeat(70_000)).expect("it is written");
        refused("longer");
        std::fs::remove_file(&file).expect("it is there");
        let path = std::ffi::CString::new(file.to_str().expect("text")).expect("no NUL");
        // SAFETY: a C string and a number.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        // Nobody ever writes to it.
        refused("regular");
        assert!(read_secret(Path::new("/dev/zero")).is_err_and(|why| why.contains("regular")));
    }

    #[tokio::test]
    async fn what_never_answers_is_given_up() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let never = move || held.recv().map_err(|error| error.to_string());
        let why = within(Duration::from_millis(1), never).await;
        assert!(why.is_err_and(|why| why.contains("1ms")));
        drop(hold);
    }
}
