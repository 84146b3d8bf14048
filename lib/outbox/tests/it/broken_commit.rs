//! A wire to PostgreSQL that breaks at the first commit, so that nobody knows of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// What is lost when the connection breaks at a commit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lost {
    /// The commit never arrived: the transaction did not take place.
    Request,
    /// It did, and nobody heard of it.
    Answer,
}

/// A pool that leads to the same database by such a wire.
pub(crate) async fn loses_first_commit(pool: &PgPool, lost: Lost) -> PgPool {
    let parent = it::database::folder_of_this_process();
    let folder = tempfile::tempdir_in(parent).unwrap().keep();
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    let options = pool.connect_options();
    let server = options.get_socket().unwrap().join(".s.PGSQL.5432");
    tokio::spawn(break_first_commit(listener, server, lost));
    PgPoolOptions::new().connect_with((*options).clone().socket(folder)).await.unwrap()
}

/// Passes everything on between a client and the server, but loses the first commit.
async fn break_first_commit(listener: UnixListener, server: PathBuf, lost: Lost) {
    let is_done = Arc::new(AtomicBool::new(false));
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&server).await.unwrap();
        tokio::spawn(pass_on(client, server, lost, Arc::clone(&is_done)));
    }
}

async fn pass_on(
    mut client: UnixStream,
    mut server: UnixStream,
    lost: Lost,
    is_done: Arc<AtomicBool>,
) {
    let (mut said, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut said) => {
                let Ok(read @ 1..) = read else { return };
                let is_commit = said[..read].windows(7).any(|window| window == b"COMMIT\0");
                if is_commit && !is_done.swap(true, Ordering::SeqCst) {
                    if lost == Lost::Answer {
                        server.write_all(&said[..read]).await.unwrap();
                        // The answer comes when the transaction has taken place; it goes nowhere.
                        assert_ne!(server.read(&mut answered).await.unwrap(), 0);
                    }
                    return;
                }
                server.write_all(&said[..read]).await.unwrap();
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
