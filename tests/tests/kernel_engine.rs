//! The kernel engine, small: each promise once, on loopback. Skipped, and counted, where this
//! machine or this process cannot.

use std::time::Duration;

use kcm_core::{AttachOptions, Engine, KcmSocket, SocketType, parsers};
use kcm_tests::kernel_engine::available;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (peer, listener.accept().await.unwrap().0)
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut all = (body.len() as u16).to_be_bytes().to_vec();
    all.extend_from_slice(body);
    all
}

fn kernel() -> AttachOptions {
    AttachOptions::new().engine(Engine::Kernel)
}

/// What should come at once, and has a whole minute for it.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it did not come")
}

#[tokio::test]
async fn messages_of_unequal_length_in_one_write_come_whole() {
    if !available() {
        return;
    }
    let (mut peer, stream) = pair().await;
    let socket = KcmSocket::new(SocketType::Dgram);
    let psock = socket.attach_with(stream, &parsers::lenprefix_be16(), kernel()).unwrap();
    let bodies: [&[u8]; 3] = [b"ten bytes!", b"and twenty bytes here", b"short"];
    peer.write_all(&bodies.map(message).concat()).await.unwrap();
    for body in bodies {
        let got = soon(socket.recv()).await.unwrap();
        assert_eq!((&got[2..], got.psock()), (body, psock.id()));
    }
}
