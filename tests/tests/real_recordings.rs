//! Real clients talk to real servers through a recording proxy; what went over the wire is
//! whole messages, however it is cut.
//!
//! With `KCM_RECORD=DIR` the streams are also written there: that is where the data in
//! tests/data/streams comes from.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use kcm_core::delineate::Delineate;
use kcm_tests::capture::{Capture, Recording};
use kcm_tests::streams::{ends, ends_of_pieces, native};
use kcm_tests::{client, server};

/// Runs a client to its end with `input`; it must succeed.
fn run(c: &mut Command, input: &str) -> String {
    let mut child = c
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    // Clients read what they need and may close early; that is no failure.
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_owned();
    let feed = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let out = child.wait_with_output().expect("the client ends");
    feed.join().expect("no panic while feeding");
    assert!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The messages of a stream, which must not depend on how it is cut.
fn messages<'a>(parser: &str, stream: &'a [u8]) -> Vec<&'a [u8]> {
    let parser = native(parser);
    let whole = ends(&parser, stream).expect("whole messages");
    cut_everywhere(&parser, stream, &whole);
    let starts = std::iter::once(0).chain(whole.iter().copied());
    starts.zip(&whole).map(|(a, b)| &stream[a as usize..*b as usize]).collect()
}

fn cut_everywhere(parser: &dyn Delineate, stream: &[u8], whole: &[u32]) {
    // Byte by byte and in pieces of a few bytes as long as that is no work, then in pieces as
    // large as segments.
    for (size, limit) in [(1, 8), (2, 8), (3, 8), (7, 16), (64, 64), (1000, 1024), (1448, 65_536)] {
        let head = whole.iter().take_while(|e| **e <= limit * 1024).count();
        let stream = &stream[..whole[..head].last().map_or(0, |e| *e as usize)];
        let cut = ends_of_pieces(parser, stream.chunks(size));
        assert_eq!(cut.as_deref(), Ok(&whole[..head]), "pieces of {size}");
    }
}

fn keep(name: &str, all: &[Recording]) {
    let Some(dir) = std::env::var_os("KCM_RECORD") else { return };
    for (i, r) in all.iter().enumerate() {
        let path = |kind: &str| Path::new(&dir).join(format!("{name}-{i}-{kind}.bin"));
        std::fs::write(path("requests"), &r.requests).expect("the folder can be written to");
        std::fs::write(path("replies"), &r.replies).expect("the folder can be written to");
    }
}

#[test]
fn redis_answers_each_request_with_one_reply() {
    let cli = client!("redis-cli", "redis-tools");
    let benchmark = client!("redis-benchmark", "redis-tools");
    let redis = server!(redis);
    let proxy = Capture::start(redis.addr()).unwrap();
    let port = proxy.port().to_string();
    let big = "x".repeat(20_000);
    let script = format!(
        "SET k v\nGET k\nGET none\nINCR n\nINCR k\nSET big {big}\nGET big\nRPUSH l a b c\n\
         LRANGE l 0 -1\nHSET h f1 v1 f2 v2\nHGETALL h\nXADD s 1-1 a 1 b 2\nXADD s 2-1 c 3\n\
         XRANGE s - +\nEVAL \"return {{1,{{2,{{3,'x'}}}},'',{{}}}}\" 0\nMULTI\nGET k\nLRANGE l 0 1\n\
         EXEC\nCOMMAND COUNT\nCONFIG GET max*\nHELLO 3\nHGETALL h\nSMEMBERS none\n"
    );
    run(Command::new(cli).args(["-p", &port]), &script);
    let args =
        ["-p", &port, "-n", "2000", "-c", "3", "-P", "16", "-q", "-t", "set,get,lpush,lrange_100"];
    run(Command::new(benchmark).args(args), "");
    // Inline commands, as people type them.
    let mut s = TcpStream::connect(proxy.addr()).unwrap();
    s.write_all(b"PING\r\nECHO  hello\nQUIT\r\n").unwrap();
    s.read_to_end(&mut Vec::new()).unwrap();
    drop(s);
    let all = proxy.finish().unwrap();
    keep("resp", &all);
    let mut count = 0;
    for r in &all {
        let (asked, answered) = (messages("resp", &r.requests), messages("resp", &r.replies));
        assert_eq!(asked.len(), answered.len());
        count += asked.len();
    }
    assert!(count > 3 * 2000, "{count}");
}

#[test]
fn postgres_ends_each_query_with_ready_for_query() {
    let psql = client!("psql", "postgresql-client");
    let pgbench = client!("pgbench", "postgresql");
    let pg = server!(postgres);
    let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", pg.port());
    run(Command::new(&pgbench).args(["-q", "-i", &direct]), "");
    let proxy = Capture::start(pg.addr()).unwrap();
    // Encryption is refused by the server, but asking for it costs an answer without a length.
    let through = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable gssencmode=disable",
        proxy.port()
    );
    let script = "create table t (i int, s text);\n\
        insert into t select i, repeat('x', i) from generate_series(1, 100) i;\n\
        select * from t where i < 4;\nselect * from nothing;\n\
        do $$ begin raise notice 'hear %', repeat('y', 3000); end $$;\n\
        copy t to stdout;\ncopy t from stdin;\n1000\tone\n1001\ttwo\n\\.\nselect count(*) from t;\n\
        listen c;\nnotify c, 'hello';\n";
    let out = run(Command::new(psql).args(["-X", "-A", "-t", &through]), script);
    assert!(out.lines().any(|l| l == "102"), "{out}");
    let args = ["-n", "-c", "2", "-t", "20", "-M", "extended", &through];
    run(Command::new(pgbench).args(args), "");
    let all = proxy.finish().unwrap();
    keep("postgres", &all);
    for r in &all {
        let (asked, answered) =
            (messages("postgres", &r.requests), messages("postgres", &r.replies));
        assert_eq!(asked.first().map(|m| m[0]), Some(0), "the start-up message has no type");
        assert_eq!(asked.last().map(|m| m[0]), Some(b'X'), "Terminate");
        // ReadyForQuery ends the start-up, and each Query or Sync.
        let cycles = asked.iter().filter(|m| [b'Q', b'S'].contains(&m[0])).count();
        assert_eq!(answered.iter().filter(|m| m[0] == b'Z').count(), cycles + 1);
    }
    assert!(all.len() >= 3, "psql and two or more of pgbench");
}

#[test]
fn mosquitto_passes_on_what_is_published() {
    let publish = client!("mosquitto_pub", "mosquitto-clients");
    let subscribe = client!("mosquitto_sub", "mosquitto-clients");
    let broker = server!(mosquitto);
    let proxy = Capture::start(broker.addr()).unwrap();
    let port = proxy.port().to_string();
    let big = "z".repeat(30_000);
    for version in ["mqttv311", "mqttv5"] {
        let topic = format!("t/{version}");
        let args = ["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "2", "-t", &topic];
        // Retained: there for who subscribes later.
        run(Command::new(&publish).args(args).args(["-r", "-s"]), &big);
        // The subscriber is ready when it has the retained message; it prints it then.
        let mut sub = Command::new(&subscribe)
            .args(args)
            .args(["-C", "41", "-W", "60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = sub.stdout.take().unwrap();
        let mut first = vec![0; big.len() + 1];
        out.read_exact(&mut first).unwrap();
        let lines: String = (0..40).map(|i| format!("{}\n", "m".repeat(1 + i * 7))).collect();
        run(Command::new(&publish).args(args).arg("-l"), &lines);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert!(sub.wait().unwrap().success());
        assert_eq!(rest, lines);
    }
    let all = proxy.finish().unwrap();
    keep("mqtt", &all);
    let (mut published, mut delivered) = (0, 0);
    for r in &all {
        let publishes = |m: &&&[u8]| m[0] >> 4 == 3;
        published += messages("mqtt", &r.requests).iter().filter(publishes).count();
        delivered += messages("mqtt", &r.replies).iter().filter(publishes).count();
    }
    assert_eq!((published, delivered), (82, 82));
}

#[test]
fn memcached_answers_what_it_is_asked() {
    let server = server!(memcached);
    let proxy = Capture::start(server.addr()).unwrap();
    let value = "v".repeat(10_000);
    let text = format!(
        "set a 1 0 5\r\nhello\r\nget a\r\nset big 0 0 {}\r\n{value}\r\ngets a big none\r\n\
         append a 0 0 1\r\n!\r\nset bin 0 0 4\r\n\r\n\r\n\r\nget bin\r\nincr a 1\r\ndelete a\r\n\
         ms m 3 T0\r\nxyz\r\nmg m v t s\r\nmg none v\r\nmn\r\nset q 0 0 1 noreply\r\nq\r\n\
         verbosity 1\r\nversion\r\nquit\r\n",
        value.len()
    );
    let mut s = TcpStream::connect(proxy.addr()).unwrap();
    s.write_all(text.as_bytes()).unwrap();
    s.read_to_end(&mut Vec::new()).unwrap();
    drop(s);
    // Binary: a no-op, then quit, each answered with its header.
    let mut s = TcpStream::connect(proxy.addr()).unwrap();
    for op in [0x0a, 0x07] {
        let mut m = [0; 24];
        (m[0], m[1]) = (0x80, op);
        s.write_all(&m).unwrap();
    }
    s.read_to_end(&mut Vec::new()).unwrap();
    drop(s);
    let all = proxy.finish().unwrap();
    keep("memcached", &all);
    let asked = messages("memcached", &all[0].requests);
    assert_eq!(asked.len(), 17);
    assert_eq!(asked[0], b"set a 1 0 5\r\nhello\r\n");
    let answered = messages("memcached", &all[0].replies);
    assert!(answered.contains(&&b"VALUE a 1 5\r\nhello\r\n"[..]));
    assert!(answered.contains(&&b"VALUE bin 0 4\r\n\r\n\r\n\r\n"[..]));
    assert_eq!(messages("memcached", &all[1].requests).len(), 2);
    assert_eq!(messages("memcached", &all[1].replies).len(), 2);
}
