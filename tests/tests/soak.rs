//! A short soak in the ordinary tests; `cargo xtask soak` runs long ones.

use std::time::Duration;

use kcm_tests::soak::{Options, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_soak_accounts_for_every_message() {
    let options = Options {
        time: Duration::from_secs(1),
        seed: 20,
        connections: 20,
        sockets: 6,
        quiet: true,
    };
    match run(options).await {
        Ok(report) => println!("{report}"),
        Err(e) => panic!("{e:#}"),
    }
}
