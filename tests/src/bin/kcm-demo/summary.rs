//! What is said at the end.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::board::Board;
use crate::live::short;

/// The end of a run.
pub(crate) struct Summary {
    /// `own peer`, `redis`, `listen`.
    pub(crate) mode: &'static str,
    /// The parser and what runs it.
    pub(crate) parser: String,
    pub(crate) json: Value,
    text: String,
    /// What was not as it should be; a run with problems fails.
    pub(crate) problems: Vec<String>,
}

impl Summary {
    /// From the board, `seconds` after its start.
    pub(crate) fn new(
        mode: &'static str,
        parser: &kcm_core::parser::Parser,
        board: &Board,
        seconds: f64,
    ) -> Self {
        let parser = format!("{} ({:?})", parser.name(), parser.exec());
        let (messages, bytes) = board.total();
        let rate = messages as f64 / seconds.max(1e-9);
        let sockets: Vec<Value> = board
            .sockets
            .iter()
            .map(|s| json!({"messages": s.messages(), "bytes": s.bytes()}))
            .collect();
        let mut text = format!(
            "{messages} messages, {bytes} bytes in {seconds:.2} s: {} messages/s, {} B/s\n",
            short(rate),
            short(bytes as f64 / seconds.max(1e-9))
        );
        for (i, s) in board.sockets.iter().enumerate() {
            text.push_str(&format!("  socket {i:<4} {:>14} messages\n", s.messages()));
        }
        let mut conns = Vec::new();
        for c in board.conns() {
            let shortest = c.shortest.load(Ordering::Relaxed);
            let longest = c.longest.load(Ordering::Relaxed);
            let lengths = (longest > 0).then_some((shortest, longest));
            let error = c.end().filter(|e| *e != kcm_core::PsockError::Eof);
            text.push_str(&format!(
                "  conn {:<6} {:>14} messages  {}  {}{}\n",
                c.number,
                c.count.messages(),
                c.peer(),
                c.state(),
                lengths.map_or_else(String::new, |(a, b)| format!("  ({a} to {b} bytes each)"))
            ));
            conns.push(json!({
                "peer": c.peer(), "messages": c.count.messages(), "bytes": c.count.bytes(),
                "shortest": lengths.map(|l| l.0), "longest": lengths.map(|l| l.1),
                "error": error.as_ref().map(ToString::to_string),
                "errno": error.as_ref().map(kcm_core::PsockError::errno),
            }));
        }
        let json = json!({
            "mode": mode, "parser": parser, "seconds": seconds,
            "messages": messages, "bytes": bytes, "messages_per_s": rate,
            "bytes_per_s": bytes as f64 / seconds.max(1e-9),
            "sockets": sockets, "connections": conns,
        });
        Summary { mode, parser, json, text, problems: Vec::new() }
    }

    /// Adds a figure of its own to the JSON and the text.
    pub(crate) fn note(&mut self, key: &str, value: Value, text: &str) {
        self.json[key] = value;
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Prints it: to standard output.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let mut json = self.json.clone();
            json["problems"] = json!(self.problems);
            println!("{json:#}");
            return;
        }
        print!("{}, parser {}: {}", self.mode, self.parser, self.text);
        for p in &self.problems {
            println!("PROBLEM: {p}");
        }
    }
}
