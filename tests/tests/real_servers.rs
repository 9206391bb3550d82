//! The harness itself: private servers answer, keep apart, and are gone when dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use kcm_tests::{client, server};

fn ask(addr: std::net::SocketAddr, line: &str) -> String {
    let mut s = BufReader::new(TcpStream::connect(addr).unwrap());
    s.get_mut().write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    s.read_line(&mut answer).unwrap();
    answer
}

#[test]
fn two_redis_servers_do_not_share_their_keys() {
    let (a, b) = (server!(redis), server!(redis));
    assert_ne!(a.addr(), b.addr());
    assert_eq!(ask(a.addr(), "SET k v\r\n"), "+OK\r\n");
    assert_eq!(ask(b.addr(), "GET k\r\n"), "$-1\r\n");
}

#[test]
fn a_dropped_server_listens_no_more() {
    let a = server!(redis);
    let addr = a.addr();
    drop(a);
    assert!(TcpStream::connect(addr).is_err());
    let a = server!(memcached);
    let addr = a.addr();
    assert!(ask(addr, "version\r\n").starts_with("VERSION "));
    drop(a);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn psql_asks_the_private_cluster() {
    let psql = client!("psql", "postgresql-client");
    let pg = server!(postgres);
    let out = Command::new(psql)
        .args(["-X", "-t", "-A", "-h", "127.0.0.1", "-U", "postgres", "-p"])
        .arg(pg.port().to_string())
        .args(["-c", "select 6 * 7"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "42\n", "{out:?}");
}

#[test]
fn a_published_message_reaches_its_subscriber() {
    let publish = client!("mosquitto_pub", "mosquitto-clients");
    let subscribe = client!("mosquitto_sub", "mosquitto-clients");
    let broker = server!(mosquitto);
    let port = broker.port().to_string();
    // A retained message is there for whoever subscribes later: no race with the subscriber.
    let args = ["-h", "127.0.0.1", "-p", &port, "-t", "a/b"];
    let sent = Command::new(publish).args(args).args(["-r", "-m", "hello"]).status().unwrap();
    assert!(sent.success());
    let got = Command::new(subscribe).args(args).args(["-C", "1", "-W", "20"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&got.stdout), "hello\n", "{got:?}");
}
