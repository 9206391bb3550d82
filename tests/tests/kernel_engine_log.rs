//! Log lines of a parser in the kernel are in the application's log, as those of the process
//! engine are. One test alone: the log of a process is one.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kcm_core::{AttachOptions, Engine, KcmSocket, Object, Parser, SocketType};
use kcm_tests::kernel_engine::available;
use kcm_tests::objects::bytes;
use log::{LevelFilter, Log, Metadata, Record};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

struct Kept(Mutex<Vec<String>>);

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "logging"
    }

    fn log(&self, r: &Record<'_>) {
        if self.enabled(r.metadata()) {
            self.0.lock().unwrap().push(format!("{} {}", r.level(), r.args()));
        }
    }

    fn flush(&self) {}
}

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

#[tokio::test]
async fn lines_of_a_parser_in_the_kernel_are_in_the_applications_log() {
    log::set_logger(&KEPT).unwrap();
    log::set_max_level(LevelFilter::Info);
    if !available() {
        return;
    }
    let object = Object::parse(&bytes("rust/logging")).unwrap();
    let parser = Parser::load(&object, "logging").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let stream = listener.accept().await.unwrap().0;
    let socket = KcmSocket::new(SocketType::Dgram);
    let options = AttachOptions::new().engine(Engine::Kernel);
    socket.attach_with(stream, &parser, options).unwrap();
    // An error, a warning, and a line of a level that nobody wants.
    peer.write_all(&[2, 1, 3, 2, 9, 2, 4]).await.unwrap();
    for length in [2, 3, 2] {
        let got = tokio::time::timeout(Duration::from_secs(60), socket.recv()).await;
        assert_eq!(got.unwrap().unwrap().len(), length);
    }
    let end = Instant::now() + Duration::from_secs(60);
    while KEPT.0.lock().unwrap().len() < 2 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(*KEPT.0.lock().unwrap(), ["ERROR bad length 2", "WARN length 3 of at most ff"]);
}
