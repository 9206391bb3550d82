//! A parser's log lines are in the application's log, from whichever executor they come, and
//! cost nothing where nobody wants them.
//!
//! One test alone: the log of a process is one, and so is its level.

use std::sync::Mutex;

use kcm_core::log::{self as parser_log, Delivery};
use kcm_core::{Exec, LoadError, Object, Parser, Verdict};
use kcm_tests::objects::bytes;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// What was logged: level, target, module, file, line, text.
type Entry = (Level, String, Option<String>, Option<String>, Option<u32>, String);

struct Kept(Mutex<Vec<Entry>>);

impl Kept {
    fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn texts(&self) -> Vec<(Level, String)> {
        self.take().into_iter().map(|e| (e.0, e.5)).collect()
    }
}

impl Log for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the code generator says of itself is not of interest here.
        let own = ["cranelift", "regalloc2"].iter().any(|t| metadata.target().starts_with(t));
        !own && metadata.target() != "unwanted"
    }

    fn log(&self, r: &Record<'_>) {
        if !self.enabled(r.metadata()) {
            return;
        }
        self.0.lock().unwrap().push((
            r.level(),
            r.target().to_owned(),
            r.module_path().map(str::to_owned),
            r.file().map(str::to_owned),
            r.line(),
            r.args().to_string(),
        ));
    }

    fn flush(&self) {}
}

static KEPT: Kept = Kept(Mutex::new(Vec::new()));

fn executors() -> Vec<Exec> {
    let jit = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    let all = [Exec::Interpreter, Exec::Checked, Exec::Jit];
    all.into_iter().filter(|e| jit || *e != Exec::Jit).collect()
}

fn load(object: &Object, exec: Exec, level: Option<LevelFilter>) -> Option<Parser> {
    let mut builder = Parser::builder(object, "logging").exec(exec);
    if let Some(level) = level {
        builder = builder.log_level(level);
    }
    match builder.load() {
        Ok(parser) => Some(parser),
        // A build without the feature has no JIT to test.
        Err(LoadError::Exec { .. }) if exec == Exec::Jit => None,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn lines_of_a_parser_are_in_the_applications_log() {
    log::set_logger(&KEPT).unwrap();
    let object = Object::parse(&bytes("rust/logging")).unwrap();

    for exec in executors() {
        log::set_max_level(LevelFilter::Trace);
        let Some(parser) = load(&object, exec, None) else { continue };
        assert_eq!(parser.parse(&[9, 1]), Verdict::Message(9));
        let mut entries = KEPT.take();
        assert_eq!(entries.len(), 1, "{exec:?}: {entries:?}");
        let (level, target, module, file, line, text) = entries.remove(0);
        assert_eq!(
            (level, target.as_str(), text.as_str()),
            (Level::Error, "logging", "bad length 9")
        );
        assert_eq!(module.as_deref(), Some("logging"));
        assert!(file.as_deref().is_some_and(|f| f.ends_with("logging.rs")), "{file:?}");
        assert!(line.is_some_and(|l| l > 1), "{line:?}");

        for kind in 2..=5 {
            assert_eq!(parser.parse(&[7, kind]), Verdict::Message(7));
        }
        let expected = [
            (Level::Warn, "length 7 of at most ff"),
            (Level::Info, "from 127.0.0.1, -5 and ABCD"),
            (Level::Debug, "a text"),
            (Level::Trace, "no arguments"),
        ];
        assert_eq!(KEPT.texts(), expected.map(|(l, t)| (l, t.to_owned())), "{exec:?}");
        assert_eq!(parser.parse(&[7, 0]), Verdict::Message(7));
        assert_eq!(parser.parse(&[7, 6]), Verdict::Error(71));
        assert_eq!(KEPT.take(), [], "what logs nothing logs nothing");

        // The application's level now, for a parser that was loaded with more.
        log::set_max_level(LevelFilter::Warn);
        for kind in 1..=5 {
            parser.parse(&[7, kind]);
        }
        let levels: Vec<Level> = KEPT.take().into_iter().map(|e| e.0).collect();
        assert_eq!(levels, [Level::Error, Level::Warn], "{exec:?}");

        // The application's level when it was loaded, and one of the caller's own.
        let parser = load(&object, exec, None).unwrap();
        log::set_max_level(LevelFilter::Trace);
        for kind in 1..=5 {
            parser.parse(&[7, kind]);
        }
        assert_eq!(KEPT.take().len(), 2, "{exec:?}");
        let parser = load(&object, exec, Some(LevelFilter::Error)).unwrap();
        for kind in 1..=5 {
            parser.parse(&[7, kind]);
        }
        assert_eq!(KEPT.take().len(), 1, "{exec:?}");
    }

    // A level that nobody wants: the code for it is not part of the program.
    let reached = |level| {
        let parser = load(&object, Exec::Interpreter, Some(level)).unwrap();
        parser.facts().reached.iter().filter(|r| **r).count()
    };
    let (off, errors, all) =
        (reached(LevelFilter::Off), reached(LevelFilter::Error), reached(LevelFilter::Trace));
    println!("instructions: {off} without lines, {errors} with errors alone, {all} with all");
    assert!(off < errors && errors < all);
    assert!(off < 60, "all that is left of a switched-off line is the way around it: {off}");

    // A flood is cut, and said to be.
    parser_log::set_rate(10);
    let parser = load(&object, Exec::Interpreter, Some(LevelFilter::Trace)).unwrap();
    for _ in 0..500 {
        parser.parse(&[7, 5]);
    }
    let lines = KEPT.take().len();
    assert!((1..=100).contains(&lines), "{lines} of 500 at ten a second");
    parser_log::set_rate(u32::MAX);
    // Room comes with time: until then lines are left out, and the first that is not left out
    // comes with the number of the others.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let report = loop {
        parser.parse(&[7, 5]);
        if let Some(r) = KEPT.take().into_iter().find(|e| e.1 == "kcm_core::log") {
            break r;
        }
        assert!(std::time::Instant::now() < deadline, "nobody says how many were left out");
    };
    assert!(report.0 == Level::Warn && report.5.contains("log lines of parsers were left out"));

    // Bytes that are no record, and a target that the application does not want.
    assert_eq!(parser_log::deliver(b"\x05\0no"), Delivery::Malformed);
    let texts = KEPT.texts();
    assert!(texts.iter().any(|(l, t)| *l == Level::Warn && t.contains("are no line")), "{texts:?}");
    let mut record = vec![0, 0, 0, 8, 0];
    record.extend_from_slice(b"unwanted");
    record.extend_from_slice(&[
        1, 1, 0, 1, 2, 0, 0, 3, 0, 0, 4, 4, 0, 9, 0, 0, 0, 5, 4, 0, 0, 0, 0, 0,
    ]);
    record[0] = record.len() as u8;
    assert_eq!(parser_log::deliver(&record), Delivery::Disabled);
    record[5..13].copy_from_slice(b"\x1b[2Jwant");
    assert_eq!(parser_log::deliver(&record), Delivery::Logged);
    assert_eq!(KEPT.take()[0].1, "\\u{1b}[2Jwant", "a target is no way to a terminal");
    log::set_max_level(LevelFilter::Off);
    assert_eq!(parser_log::deliver(&record), Delivery::Disabled);
    assert_eq!(KEPT.take(), []);
}
