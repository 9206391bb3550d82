//! The examples, with real clients and servers.
//!
//! Their code is included as it stands, so that what users copy is what is tested.

#[allow(unreachable_pub)]
#[path = "../../kcm-core/examples/balancer/affinity.rs"]
mod affinity;
#[allow(unreachable_pub)]
#[path = "../../kcm-core/examples/redis_pool/pool.rs"]
mod pool;
#[allow(unreachable_pub)]
#[path = "../../kcm-core/examples/balancer/spread.rs"]
mod spread;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kcm_core::{Parser, parsers};
use kcm_tests::codec::{frame, number, numbered};
use kcm_tests::harness::{eventually, soon};
use kcm_tests::peer::{Peer, listener};
use kcm_tests::{client, server};
use tokio::net::TcpStream;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Starts a balancer with sessions; where it listens, and what it counts.
async fn affine(backend: SocketAddr, parser: Parser) -> (SocketAddr, Arc<affinity::Counts>) {
    let (listener, addr) = listener().await;
    let counts = Arc::new(affinity::Counts::default());
    let postgres = parser.name() == "postgres";
    let balancer =
        affinity::Affinity { backends: vec![backend], parser, postgres, counts: counts.clone() };
    tokio::spawn(balancer.serve(listener));
    (addr, counts)
}

/// Starts a balancer without.
async fn spreading(
    backends: Vec<SocketAddr>,
    connections: usize,
    parser: Parser,
) -> (SocketAddr, Arc<spread::Counts>) {
    let (listener, addr) = listener().await;
    let counts = Arc::new(spread::Counts::default());
    let balancer = spread::Spread { backends, connections, shards: 2, parser };
    tokio::spawn(balancer.serve(listener, counts.clone()));
    (addr, counts)
}

/// Runs a client to its end, without blocking the balancer.
async fn run(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), run).await;
    output.expect("a client that ends").unwrap()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn redis_benchmark_runs_through_the_spreading_balancer() {
    let program = client!("redis-benchmark", "redis-tools");
    let (a, b) = (server!(redis), server!(redis));
    runtime().block_on(async {
        let backends = vec![a.addr(), b.addr()];
        let (addr, counts) = spreading(backends, 2, parsers::resp()).await;
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &addr.port().to_string()]);
        command.args(["-n", "4000", "-c", "20", "-P", "16", "-r", "1000", "--csv"]);
        command.args(["-t", "ping,set,get,incr,lpush,lrange_100,mset"]);
        let output = run(command).await;
        let told = text(&output);
        assert!(output.status.success() && !told.to_lowercase().contains("error"), "{told}");
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "LRANGE_100", "MSET"] {
            assert!(told.contains(test), "{told}");
        }
        let requests = counts.requests.load(Ordering::Relaxed);
        let answered = || counts.replies.load(Ordering::Relaxed) == requests;
        assert!(requests >= 8 * 4000, "{requests}");
        eventually("as many replies as requests", answered).await;
        // Both servers had a share of it.
        for server in [&a, &b] {
            let sum = commands_of(server.addr()).await;
            assert!(sum > requests / 4, "{sum} of {requests}");
        }
    });
}

/// How many commands a server has carried out.
async fn commands_of(server: SocketAddr) -> u64 {
    let pool = pool::Pool::connect(server, 1, parsers::resp()).await.unwrap();
    let info = pool.request(&[b"INFO", b"stats"]).await.unwrap();
    let info = String::from_utf8_lossy(&info).into_owned();
    let line = info.lines().find_map(|l| l.strip_prefix("total_commands_processed:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn redis_clients_with_a_state_run_through_the_affine_balancer() {
    let cli = client!("redis-cli", "redis-tools");
    let benchmark = client!("redis-benchmark", "redis-tools");
    let redis = server!(redis);
    runtime().block_on(async {
        let (addr, counts) = affine(redis.addr(), parsers::resp()).await;
        let port = addr.port().to_string();
        // A transaction is many messages of one connection; the client ends its stream and
        // waits for what is still to come.
        let mut command = Command::new("sh");
        let script =
            "printf 'SELECT 3\\nMULTI\\nSET k v\\nGET k\\nEXEC\\nECHO done\\n' | \"$0\" \"$@\"";
        command.arg("-c").arg(script).arg(&cli);
        command.args(["-h", "127.0.0.1", "-p", &port]);
        let told = text(&run(command).await);
        assert_eq!(told, "OK\nOK\nQUEUED\nQUEUED\nOK\nv\ndone\n");
        // A stream of commands, ended by the client before the replies are all there.
        let mut command = Command::new("sh");
        let script =
            "i=0; while [ $i -lt 5000 ]; do echo SET k$i v$i; i=$((i+1)); done | \"$0\" \"$@\"";
        command.arg("-c").arg(script).arg(&cli);
        command.args(["-h", "127.0.0.1", "-p", &port, "--pipe"]);
        let told = text(&run(command).await);
        assert!(told.contains("errors: 0, replies: 5000"), "{told}");
        let mut command = Command::new(benchmark);
        command.args(["-h", "127.0.0.1", "-p", &port, "-n", "2000", "-c", "10", "-P", "8", "-q"]);
        command.args(["-t", "set,get"]);
        let output = run(command).await;
        assert!(output.status.success(), "{}", text(&output));
        let sessions = counts.sessions.load(Ordering::Relaxed);
        assert!(sessions >= 12, "{sessions}");
    });
}

#[test]
fn psql_and_pgbench_run_through_the_affine_balancer() {
    let psql = client!("psql", "postgresql-client");
    let pgbench = client!("pgbench", "postgresql-contrib");
    let postgres = server!(postgres);
    runtime().block_on(async {
        let (addr, counts) = affine(postgres.addr(), parsers::postgres()).await;
        let port = addr.port().to_string();
        let to = ["-h", "127.0.0.1", "-U", "postgres", "-p", &port];
        // With encryption asked for first, and without.
        for mode in ["prefer", "disable"] {
            let mut command = Command::new(&psql);
            command.env("PGSSLMODE", mode).args(to).args(["-X", "-t", "-A"]);
            command.args([
                "-c",
                "select sum(n), min(repeat('x', 2000)) from generate_series(1, 1000) n",
            ]);
            let output = run(command).await;
            assert_eq!(text(&output), format!("500500|{}\n", "x".repeat(2000)), "{mode}");
        }
        // An error, a notice, and a large result.
        let mut command = Command::new(&psql);
        command.args(to).args(["-X", "-t", "-A", "-c", "select 1/0"]);
        assert!(text(&run(command).await).contains("division by zero"));
        let mut command = Command::new(&psql);
        command.args(to).args(["-X", "-t", "-A"]);
        command.args(["-c", "select n, repeat('y', 100) from generate_series(1, 20000) n"]);
        let output = run(command).await;
        let lines = String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(lines, 20_000);
        let mut command = Command::new(&pgbench);
        command.args(to).args(["-i", "-q", "-s", "1", "postgres"]);
        let output = run(command).await;
        assert!(output.status.success(), "{}", text(&output));
        for protocol in ["simple", "extended", "prepared"] {
            let mut command = Command::new(&pgbench);
            command.args(to).args(["-c", "4", "-j", "2", "-t", "50", "-M", protocol, "postgres"]);
            let output = run(command).await;
            let told = text(&output);
            assert!(output.status.success(), "{told}");
            assert!(told.contains("number of transactions actually processed: 200/200"), "{told}");
        }
        let requests = counts.requests.load(Ordering::Relaxed);
        let replies = counts.replies.load(Ordering::Relaxed);
        // Filling the tables alone is a message for each of 100,000 rows.
        assert!(requests > 100_000 && replies > 20_000 + 600, "{requests}, {replies}");
    });
}

#[test]
fn mosquitto_clients_run_through_the_affine_balancer() {
    let publish = client!("mosquitto_pub", "mosquitto-clients");
    let subscribe = client!("mosquitto_sub", "mosquitto-clients");
    let broker = server!(mosquitto);
    runtime().block_on(async {
        let (addr, counts) = affine(broker.addr(), parsers::mqtt()).await;
        let port = addr.port().to_string();
        let to = ["-h", "127.0.0.1", "-p", &port];
        for version in ["mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                let topic = format!("a/{version}/{qos}");
                let mut command = Command::new(&publish);
                // Retained: it is there for whoever subscribes later.
                command.args(to).args(["-V", version, "-q", qos, "-t", &topic, "-r"]);
                command.args(["-m", &"z".repeat(5000)]);
                let output = run(command).await;
                assert!(output.status.success(), "{}", text(&output));
                let mut command = Command::new(&subscribe);
                command.args(to).args(["-V", version, "-q", qos, "-t", &topic]);
                command.args(["-C", "1", "-W", "20"]);
                let output = run(command).await;
                assert_eq!(text(&output), format!("{}\n", "z".repeat(5000)), "{topic}");
            }
        }
        assert_eq!(counts.sessions.load(Ordering::Relaxed), 12);
    });
}

#[test]
fn workers_of_the_redis_pool_get_their_own_replies() {
    let redis = server!(redis);
    runtime().block_on(async {
        let pool = pool::Pool::connect(redis.addr(), 3, parsers::resp()).await.unwrap();
        let mut workers = Vec::new();
        for worker in 0..40 {
            let pool = pool.clone();
            workers.push(tokio::spawn(async move {
                for round in 0..50 {
                    let value = format!("{worker}/{round}").repeat(1 + round % 60);
                    let echo = pool.request(&[b"ECHO", value.as_bytes()]).await.unwrap();
                    assert_eq!(echo, format!("${}\r\n{value}\r\n", value.len()));
                }
            }));
        }
        for worker in workers {
            soon("the workers", worker).await.unwrap();
        }
        let stats = pool.socket().mux_stats();
        assert_eq!((stats.tx_msgs, stats.rx_msgs), (2000, 2000));
        // Every connection is killed by the server, in the middle of the work: some requests
        // fail, with the cause; the pool is whole again, and no reply is another's.
        let mut workers = Vec::new();
        for worker in 0..10 {
            let pool = pool.clone();
            workers.push(tokio::spawn(async move {
                let mut failed = 0;
                for round in 0..300 {
                    let value = format!("{worker}/{round}");
                    match pool.request(&[b"ECHO", value.as_bytes()]).await {
                        Ok(echo) => assert_eq!(echo, format!("${}\r\n{value}\r\n", value.len())),
                        Err(pool::RequestError::NoConnection) => {
                            failed += 1;
                            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                        }
                        Err(_) => failed += 1,
                    }
                }
                failed
            }));
        }
        let killer = pool::Pool::connect(redis.addr(), 1, parsers::resp()).await.unwrap();
        let kill = [&b"CLIENT"[..], b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"];
        let killed = killer.request(&kill).await.unwrap();
        assert_ne!(&killed[..], b":0\r\n");
        for worker in workers {
            let failed = soon("the workers", worker).await.unwrap();
            assert!(failed < 300, "{failed}");
        }
        eventually("the pool to be whole again", || pool.connections() == 3).await;
        assert_eq!(&pool.request(&[b"PING"]).await.unwrap()[..], b"+PONG\r\n");
    });
}

/// A backend that answers each message with itself, after a while of its own.
async fn slow_echo(delay: impl Fn(u32) -> u64 + Send + Copy + 'static) -> SocketAddr {
    let (listener, addr) = listener().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut peer = Peer::new(stream);
                while let Ok(payload) = peer.read_frame().await {
                    let message = frame(payload);
                    let (_, seq) = number(&message).unwrap();
                    tokio::time::sleep(std::time::Duration::from_micros(delay(seq))).await;
                    if peer.send(&message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

#[test]
fn each_client_gets_its_replies_in_its_order_although_backends_differ() {
    runtime().block_on(async {
        let slow = slow_echo(|seq| u64::from(seq * 7919 % 5) * 500).await;
        let fast = slow_echo(|_| 0).await;
        let parser = parsers::by_name("lenprefix_be32").unwrap();
        let (addr, counts) = spreading(vec![slow, fast], 3, parser).await;
        let mut clients = Vec::new();
        for conn in 0..6 {
            clients.push(tokio::spawn(async move {
                let mut client = Peer::new(TcpStream::connect(addr).await.unwrap());
                let all: Vec<u8> = (0..200).flat_map(|seq| numbered(conn, seq, 30)).collect();
                client.send(&all).await.unwrap();
                // It ends its stream, and has its replies all the same, and then the end.
                client.finish().await.unwrap();
                for seq in 0..200 {
                    let reply = frame(client.read_frame().await.unwrap());
                    assert_eq!(number(&reply), Some((conn, seq)));
                }
                assert_eq!(client.read_to_end().await.unwrap(), b"");
            }));
        }
        for client in clients {
            soon("the clients", client).await.unwrap();
        }
        assert_eq!(counts.requests.load(Ordering::Relaxed), 1200);
        assert_eq!(counts.replies.load(Ordering::Relaxed), 1200);
    });
}

#[test]
fn a_backend_that_fails_takes_only_the_clients_that_wait_for_it() {
    runtime().block_on(async {
        let (doomed, doomed_addr) = listener().await;
        let good = slow_echo(|_| 0).await;
        let parser = parsers::by_name("lenprefix_be32").unwrap();
        {
            let started = tokio::spawn(spreading(vec![doomed_addr, good], 1, parser));
            // One connection of each of the two shards.
            let mut doomed_peers = Vec::new();
            for _ in 0..2 {
                doomed_peers.push(Peer::new(doomed.accept().await.unwrap().0));
            }
            drop(doomed);
            let started = started.await.unwrap();
            let connect = async || Peer::new(TcpStream::connect(started.0).await.unwrap());
            // Clients go to the shards in turns: two of each. The first of a shard gets the
            // doomed backend, which has it wait; the second the other.
            let mut waiting = [connect().await, connect().await];
            for client in &mut waiting {
                client.send(&numbered(0, 0, 20)).await.unwrap();
            }
            for peer in &mut doomed_peers {
                peer.read_frame().await.unwrap();
            }
            let mut served = [connect().await, connect().await];
            for seq in 0..3 {
                for client in &mut served {
                    client.send(&numbered(1, seq, 20)).await.unwrap();
                    let reply = frame(client.read_frame().await.unwrap());
                    assert_eq!(number(&reply), Some((1, seq)));
                }
            }
            for peer in doomed_peers {
                peer.reset();
            }
            for client in &mut waiting {
                assert_eq!(client.read_to_end().await.unwrap_or_default(), b"");
            }
            for seq in 3..6 {
                for client in &mut served {
                    client.send(&numbered(1, seq, 20)).await.unwrap();
                    let reply = frame(client.read_frame().await.unwrap());
                    assert_eq!(number(&reply), Some((1, seq)));
                }
            }
        }
    });
}
