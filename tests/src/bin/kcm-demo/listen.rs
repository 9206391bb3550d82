//! Delineates whatever is sent to us: lengths, counts and errors of any live stream.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use kcm_core::{KcmSocket, PsockEvent, RecvError, SocketType};
use tokio::net::TcpListener;

use crate::board::Board;
use crate::live::Live;
use crate::summary::Summary;
use crate::{Cli, load};

/// Messages of a connection that are printed one by one; the rest is counted.
const PRINTED: u64 = 20;

/// Runs until the time is over or Ctrl-C.
pub(crate) async fn run(cli: &Cli, addr: SocketAddr) -> Result<Summary> {
    let parser = load::parser(cli, &cli.parser)?;
    let listener =
        TcpListener::bind(addr).await.with_context(|| format!("could not listen at {addr}"))?;
    eprintln!("{parser:?} delineates what is sent to {}", listener.local_addr()?);
    let socket = KcmSocket::builder(SocketType::Dgram).build();
    let board = Board::new(cli.sockets.into());
    let live = Live::start(board.clone());
    for i in 0..cli.sockets.into() {
        tokio::spawn(receive(socket.try_clone()?, i, board.clone(), cli.json));
    }
    // A socket of its own accepts and watches, and receives nothing.
    socket.set_recv_disabled(true);
    let mut events = socket.events();
    // Connections that ended are closed; what they sent whole has been received by then.
    let options = cli.attach_options(0).auto_close(true);
    let over = async {
        match cli.seconds {
            Some(s) => tokio::time::sleep(Duration::from_secs_f64(s)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                match socket.attach_with(stream, &parser, options.clone()) {
                    Ok(psock) => {
                        let conn = board.attached(&psock);
                        line(cli.json, format_args!("conn {} from {from}", conn.number));
                    }
                    Err(e) => eprintln!("connection from {from} cannot be attached: {e}"),
                }
            }
            Some(event) = events.next() => {
                if let PsockEvent::Failed { psock, cause, .. } = event {
                    board.ended(psock, cause);
                    let conn = board.conn(psock);
                    line(cli.json, format_args!("conn {} {}", conn.number, conn.state()));
                }
            }
            () = &mut over => break,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    let seconds = board.started.elapsed().as_secs_f64();
    drop(live);
    Ok(Summary::new("listen", &parser, &board, seconds))
}

async fn receive(socket: KcmSocket, index: usize, board: Arc<Board>, json: bool) {
    loop {
        let batch = match socket.recv_batch().await {
            Ok(batch) => batch,
            Err(RecvError::Closed) => return,
            Err(e) => {
                eprintln!("socket {index}: {e}");
                return;
            }
        };
        let conn = board.conn(batch.psock());
        let before = conn.count.messages();
        for (i, message) in batch.iter().enumerate() {
            let len = message.len() as u64;
            conn.shortest.fetch_min(len, Ordering::Relaxed);
            conn.longest.fetch_max(len, Ordering::Relaxed);
            match before + i as u64 {
                n if n < PRINTED => line(
                    json,
                    format_args!("conn {} message {n}: {len} bytes (socket {index})", conn.number),
                ),
                PRINTED => line(json, format_args!("conn {} goes on", conn.number)),
                _ => {}
            }
        }
        conn.count.add(batch.len() as u64, batch.bytes() as u64);
        board.sockets[index].add(batch.len() as u64, batch.bytes() as u64);
    }
}

/// To standard output, unless that is for JSON: then to standard error. A reader that went
/// away is no reason to stop.
fn line(json: bool, what: std::fmt::Arguments<'_>) {
    let _ = if json {
        writeln!(std::io::stderr(), "{what}")
    } else {
        writeln!(std::io::stdout(), "{what}")
    };
}
