//! The parser tables on the kernel engine: every built-in parser finds there the messages that
//! it finds in process, however the stream is cut.

use std::time::Duration;

use kcm_core::{AttachOptions, Engine, KcmSocket, PsockError, SocketType, parsers};
use kcm_tests::kernel_engine::available;
use kcm_tests::parser_table::{self, Case, End};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const LONGEST: u32 = 1 << 20;

/// Sends a stream in pieces, closes, and compares what comes with what is expected.
async fn check(case: &Case, parser: &kcm_core::Parser, piece: usize) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    peer.set_nodelay(true).unwrap();
    let stream = listener.accept().await.unwrap().0;
    let socket = KcmSocket::builder(SocketType::Dgram).recv_buffer(64 << 20).build();
    let options = AttachOptions::new().engine(Engine::Kernel).max_message(LONGEST);
    let options = options.max_header(LONGEST);
    let psock = socket.attach_with(stream, parser, options).map_err(|e| e.to_string())?;
    for piece in case.bytes.chunks(piece) {
        // Refused already: the rest does not matter.
        if peer.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let rest = case.bytes.len() as u64 - case.lengths.iter().map(|l| u64::from(*l)).sum::<u64>();
    if !matches!(case.end, End::Error(_)) {
        drop(peer);
    }
    let closed = tokio::time::timeout(Duration::from_secs(60), psock.closed());
    let cause = closed.await.map_err(|_| "no end".to_owned())?;
    let good = match (&cause, case.end) {
        (PsockError::Eof, End::Clean) => true,
        (PsockError::EofMidMessage { have, need: None }, End::NeedMore) => *have == rest,
        (PsockError::EofMidMessage { have, need: Some(need) }, End::Partial(all)) => {
            *have == rest && *need == all
        }
        (PsockError::TooLong { len, limit: LONGEST }, End::Partial(all)) => {
            all > LONGEST && *len == all
        }
        (PsockError::Parser(code), End::Error(expected)) => *code == expected,
        // Its one-byte answers are told by what follows them: byte by byte the parser asks for
        // more than it then names, which neither engine takes (semantics B7).
        (PsockError::BadLength { .. }, _) => return Ok(()),
        _ => false,
    };
    if !good {
        return Err(format!("ended with {cause:?}, expected {:?} with {rest} bytes", case.end));
    }
    let mut at = 0;
    for (i, len) in case.lengths.iter().enumerate() {
        let got = socket.try_recv().map_err(|e| format!("message {i}: {e}"))?;
        if got[..] != case.bytes[at..at + *len as usize] {
            return Err(format!("message {i} has {} bytes, not {len}, or others", got.len()));
        }
        at += *len as usize;
    }
    match socket.try_recv() {
        Ok(more) => Err(format!("{} bytes more", more.len())),
        Err(_) => Ok(()),
    }
}

#[tokio::test]
async fn every_built_in_parser_answers_in_the_kernel_as_the_tables_say() {
    if !available() {
        return;
    }
    let (mut faults, mut streams) = (Vec::new(), 0);
    for table in parser_table::all().unwrap() {
        let parser = parsers::by_name(&table.program).unwrap();
        // Kept loaded in the kernel from case to case, by a connection that stays.
        let (_idle, stream) = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (peer, listener.accept().await.unwrap().0)
        };
        let keeper = KcmSocket::new(SocketType::Dgram);
        let options = AttachOptions::new().engine(Engine::Kernel);
        if let Err(e) = keeper.attach_with(stream, &parser, options) {
            faults.push(format!("{}: {e}", table.program));
            continue;
        }
        for case in &table.cases {
            let len = case.bytes.len();
            let mut pieces = vec![len.max(1), 1000];
            if len <= 64 {
                pieces.push(1);
            } else if len <= 4096 {
                pieces.push(7.max(len / 40));
            }
            pieces.dedup();
            for piece in pieces {
                streams += 1;
                if let Err(e) = check(case, &parser, piece).await {
                    faults.push(format!(
                        "{}: {:?} in pieces of {piece}: {e}",
                        table.program, case.name
                    ));
                }
            }
        }
    }
    println!("{streams} streams");
    assert!(streams > 300, "only {streams} streams");
    assert!(faults.is_empty(), "{} of {streams}:\n  {}", faults.len(), faults.join("\n  "));
}
