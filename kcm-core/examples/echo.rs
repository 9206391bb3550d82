//! An echo service: every message goes back to where it came from.
//!
//! ```text
//! cargo run --example echo -- [LISTEN] [PARSER] [WORKERS]
//! cargo run --example echo -- 127.0.0.1:7000 resp 4
//! ```
//!
//! All connections belong to one multiplexor; each worker has a KCM socket of its own, to
//! which whole messages come, whatever connection they arrived on. A connection that sends
//! what the parser refuses is closed; the others do not notice.

use kcm_core::{AttachOptions, KcmSocket, PsockEvent, SocketType, parsers};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let name = args.next().unwrap_or_else(|| "thrift".to_owned());
    let workers: usize = args.next().map_or(Ok(4), |n| n.parse())?;
    let parser = parsers::by_name(&name).ok_or(format!("there is no parser {name}"))?;

    let listener = TcpListener::bind(&listen).await?;
    println!("echoing {name} messages on {}", listener.local_addr()?);
    serve(listener, parser, workers).await
}

async fn serve(
    listener: TcpListener,
    parser: kcm_core::Parser,
    workers: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    // A peer that stops reading would hold up the replies to all others: it is given up
    // after a while.
    let socket = KcmSocket::builder(SocketType::Dgram)
        .stall_deadline(Some(std::time::Duration::from_secs(30)))
        .build();

    for _ in 0..workers.max(1) {
        let worker = socket.try_clone()?;
        tokio::spawn(async move {
            while let Ok(message) = worker.recv().await {
                // The only error is that the connection is gone, and with it who would care.
                let _ = worker.reply(&message, &message).await;
            }
        });
    }
    // This one only holds the connections.
    socket.set_recv_disabled(true);

    let mut events = socket.events();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let PsockEvent::Failed { psock, cause, .. } = event
                && !cause.is_clean()
            {
                eprintln!("{psock}: {cause}");
            }
        }
    });

    loop {
        let (stream, peer) = listener.accept().await?;
        let options = AttachOptions::new().auto_close(true);
        if let Err(refused) = socket.attach_with(stream, &parser, options) {
            eprintln!("{peer}: {refused}");
        }
    }
}
