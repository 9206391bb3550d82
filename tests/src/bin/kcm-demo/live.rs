//! The live display: counts and rates, redrawn in place, where standard error is a terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::board::Board;

/// More rows than this do not fit on anybody's screen.
const ROWS: usize = 24;

const EVERY: Duration = Duration::from_millis(250);

/// The display; it goes away when dropped.
pub(crate) struct Live(Option<JoinHandle<()>>);

impl Live {
    pub(crate) fn start(board: Arc<Board>) -> Live {
        if !std::io::stderr().is_terminal() {
            return Live(None);
        }
        Live(Some(tokio::spawn(async move {
            let mut screen = Screen::default();
            let mut tick = tokio::time::interval(EVERY);
            loop {
                tick.tick().await;
                screen.draw(&board);
            }
        })))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            // What was drawn last stays; what follows is written below it.
            eprintln!();
        }
    }
}

#[derive(Default)]
struct Screen {
    /// Lines drawn, to go back up.
    lines: usize,
    last: Option<(Instant, Vec<u64>)>,
}

impl Screen {
    fn draw(&mut self, board: &Board) {
        let now = Instant::now();
        let text = self.text(board, now);
        let mut out = String::new();
        if self.lines > 0 {
            let _ = write!(out, "\x1b[{}A", self.lines);
        }
        for line in text.lines() {
            let _ = writeln!(out, "\x1b[K{line}");
        }
        self.lines = text.lines().count();
        let _ = std::io::stderr().write_all(out.as_bytes());
    }

    fn text(&mut self, board: &Board, now: Instant) -> String {
        let conns = board.conns();
        let mut counts: Vec<u64> = board.sockets.iter().map(|s| s.messages()).collect();
        let sockets = counts.len();
        counts.extend(conns.iter().map(|c| c.count.messages()));
        let (secs, before) = match &self.last {
            Some((then, before)) => ((now - *then).as_secs_f64(), before.clone()),
            None => (EVERY.as_secs_f64(), Vec::new()),
        };
        let rate = |i: usize| {
            let new = counts[i] - before.get(i).copied().unwrap_or(0);
            short(new as f64 / secs.max(1e-3))
        };
        let mut out = String::new();
        let total: u64 = counts[..sockets].iter().sum();
        let elapsed = board.started.elapsed().as_secs_f64();
        let _ = writeln!(out, "{elapsed:6.1} s  {total} messages");
        for (i, count) in counts[..sockets].iter().enumerate().take(ROWS) {
            let _ = writeln!(out, "  socket {i:<4} {count:>14}  {:>8}/s", rate(i));
        }
        // The newest are the interesting ones, where not all can be shown.
        for c in conns.iter().skip(conns.len().saturating_sub(ROWS)) {
            let _ = writeln!(
                out,
                "  conn {:<6} {:>14}  {:>8}/s  {} {}",
                c.number,
                counts[sockets + c.number],
                rate(sockets + c.number),
                c.peer(),
                c.state()
            );
        }
        self.last = Some((now, counts));
        out
    }
}

/// `12.3k`, `4.56M`.
pub(crate) fn short(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.2}G", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_what_came_since_the_last_look() {
        let board = Board::new(2);
        let mut screen = Screen::default();
        let start = Instant::now();
        board.sockets[0].add(1000, 0);
        screen.text(&board, start);
        board.sockets[0].add(3000, 0);
        board.sockets[1].add(500, 0);
        let text = screen.text(&board, start + Duration::from_secs(2));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("4500 messages"), "{text}");
        assert!(lines[1].contains("4000") && lines[1].ends_with("1.5k/s"), "{text}");
        assert!(lines[2].contains("500") && lines[2].ends_with("250/s"), "{text}");
    }
}
