//! A Rust file as tidy sees it: code and comments apart, strings blanked, test code marked.

/// One line of a file.
#[derive(Default, Debug)]
pub(super) struct Line {
    /// The code, with the contents of string and character literals blanked out.
    pub(super) code: String,
    /// The text of the comments, their markers included.
    pub(super) comment: String,
    /// Inside an item under `#[cfg(test)]`.
    pub(super) test: bool,
}

/// Splits a file's text. It never fails: text that is no Rust gives odd lines, not an error.
pub(super) fn lines(text: &str) -> Vec<Line> {
    let mut out = split(text);
    mark_tests(&mut out);
    out
}

enum State {
    Code,
    LineComment,
    /// Nested so many deep.
    BlockComment(u32),
    Str,
    /// Ends with a quote and so many hashes.
    RawStr(usize),
}

fn split(text: &str) -> Vec<Line> {
    let mut out = vec![Line::default()];
    let mut state = State::Code;
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < c.len() {
        if c[i] == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            out.push(Line::default());
            i += 1;
            continue;
        }
        let Some(line) = out.last_mut() else { break };
        match state {
            State::Code => match c[i] {
                '/' if at(i + 1) == '/' => {
                    state = State::LineComment;
                    continue;
                }
                '/' if at(i + 1) == '*' => {
                    line.comment.push_str("/*");
                    state = State::BlockComment(1);
                    i += 2;
                    continue;
                }
                '"' => {
                    let hashes = line.code.chars().rev().take_while(|&h| h == '#').count();
                    let before: String = line.code.chars().rev().skip(hashes).take(3).collect();
                    let raw = before.starts_with('r')
                        && before
                            .chars()
                            .nth(1)
                            .is_none_or(|p| !p.is_alphanumeric() || p == 'b' || p == 'c');
                    state = if raw { State::RawStr(hashes) } else { State::Str };
                    line.code.push('"');
                }
                '\'' => {
                    // A character literal closes soon; a lifetime never does.
                    let close = if at(i + 1) == '\\' {
                        (i + 3..i + 13).find(|&j| at(j) == '\'')
                    } else {
                        (at(i + 2) == '\'').then_some(i + 2)
                    };
                    line.code.push('\'');
                    if let Some(end) = close {
                        line.code.push('\'');
                        i = end;
                    }
                }
                ch => line.code.push(ch),
            },
            State::LineComment => line.comment.push(c[i]),
            State::BlockComment(depth) => {
                line.comment.push(c[i]);
                if c[i] == '*' && at(i + 1) == '/' {
                    line.comment.push('/');
                    i += 1;
                    state = if depth == 1 { State::Code } else { State::BlockComment(depth - 1) };
                } else if c[i] == '/' && at(i + 1) == '*' {
                    line.comment.push('*');
                    i += 1;
                    state = State::BlockComment(depth + 1);
                }
            }
            State::Str => match c[i] {
                '\\' if at(i + 1) != '\n' => i += 1,
                '"' => {
                    line.code.push('"');
                    state = State::Code;
                }
                _ => {}
            },
            State::RawStr(hashes) => {
                if c[i] == '"' && (1..=hashes).all(|h| at(i + h) == '#') {
                    line.code.push('"');
                    i += hashes;
                    state = State::Code;
                }
            }
        }
        i += 1;
    }
    out
}

/// Marks the lines from a `#[cfg(test)]` to the end of the item under it.
fn mark_tests(lines: &mut [Line]) {
    let mut i = 0;
    while i < lines.len() {
        let code = lines[i].code.trim_start();
        if !(code.starts_with("#[cfg(test)") || code.starts_with("#[cfg(all(test")) {
            i += 1;
            continue;
        }
        let mut depth = 0i32;
        // The attribute's own brackets are balanced, so depth speaks of the item alone.
        'item: while i < lines.len() {
            lines[i].test = true;
            let code = lines[i].code.clone();
            let attribute = code.trim_start().starts_with("#[");
            for ch in code.chars() {
                match ch {
                    '{' | '(' | '[' => depth += 1,
                    '}' | ')' | ']' => depth -= 1,
                    ';' if depth == 0 => break 'item,
                    _ => {}
                }
                if ch == '}' && depth == 0 && !attribute {
                    break 'item;
                }
            }
            i += 1;
        }
        i += 1;
    }
}

/// A word or a sign of code, with the line (from 0) it stands on.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// The words and signs of the code; `::` is one sign.
pub(super) fn tokens(lines: &[Line]) -> Vec<Token> {
    let mut out = Vec::new();
    for (n, l) in lines.iter().enumerate() {
        let mut chars = l.code.chars().peekable();
        while let Some(ch) = chars.next() {
            let mut text = String::from(ch);
            if ch.is_alphanumeric() || ch == '_' {
                while let Some(&p) = chars.peek() {
                    if !(p.is_alphanumeric() || p == '_') {
                        break;
                    }
                    text.push(p);
                    chars.next();
                }
            } else if ch == ':' && chars.peek() == Some(&':') {
                chars.next();
                text.push(':');
            } else if ch.is_whitespace() {
                continue;
            }
            out.push(Token { text, line: n });
        }
    }
    out
}

/// Every path named in the code, groups of a `use` written out (`a::{b, c::d}` is `a::b` and
/// `a::c::d`), with its line.
pub(super) fn paths(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut out = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if is_word(&tokens[i].text) {
            path(tokens, &mut i, "", &mut out);
        } else {
            i += 1;
        }
    }
    out
}

fn is_word(t: &str) -> bool {
    t.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn path(tokens: &[Token], i: &mut usize, prefix: &str, out: &mut Vec<(String, usize)>) {
    let mut full = prefix.to_owned();
    let line = tokens[*i].line;
    while let Some(t) = tokens.get(*i) {
        if t.text == "{" && full.ends_with("::") {
            *i += 1;
            while let Some(t) = tokens.get(*i) {
                match t.text.as_str() {
                    "}" => {
                        *i += 1;
                        return;
                    }
                    w if is_word(w) => path(tokens, i, &full, out),
                    _ => *i += 1,
                }
            }
            return;
        }
        if !is_word(&t.text) {
            break;
        }
        full.push_str(&t.text);
        *i += 1;
        if tokens.get(*i).is_some_and(|t| t.text == "::") {
            full.push_str("::");
            *i += 1;
        } else {
            break;
        }
    }
    out.push((full, line));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        lines(text).into_iter().map(|l| l.code.trim().to_owned()).collect()
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(code(r#"let a = "x.unwrap()"; // b.unwrap()"#), [r#"let a = "";"#]);
        assert_eq!(code("a /* b /* c */ d */ e"), ["a  e"]);
        assert_eq!(code("r#\"un\"wrap\"# x"), ["r#\"\" x"]);
        assert_eq!(code(r#"'"' 'a' '\'' "b""#), [r#"'' '' '' """#]);
        assert_eq!(code(r"fn f<'a>(x: &'a str) {}"), ["fn f<'a>(x: &'a str) {}"]);
        assert_eq!(code("\"a\nb\" c"), ["\"", "\" c"]);
    }

    #[test]
    fn the_comment_of_a_line_is_kept() {
        assert_eq!(lines("x // SAFETY: y")[0].comment, "// SAFETY: y");
    }

    #[test]
    fn an_item_under_cfg_test_is_marked_to_its_end() {
        let t = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() {}\n}\nfn c() {}\n";
        let marks: Vec<bool> = lines(t).iter().map(|l| l.test).collect();
        assert_eq!(marks, [false, true, true, true, true, true, false, false]);
        let marks: Vec<bool> =
            lines("#[cfg(test)]\nmod t;\nfn c() {}").iter().map(|l| l.test).collect();
        assert_eq!(marks, [true, true, false]);
    }

    #[test]
    fn groups_of_a_use_are_written_out() {
        let l =
            lines("use crate::{net::Psock, bpf::{a, b as c}, self};\nstd::time::Instant::now()");
        let p: Vec<String> = paths(&tokens(&l)).into_iter().map(|p| p.0).collect();
        for want in
            ["crate::net::Psock", "crate::bpf::a", "crate::bpf::b", "std::time::Instant::now"]
        {
            assert!(p.iter().any(|x| x == want), "{want} in {p:?}");
        }
    }

    #[test]
    fn any_text_can_be_split() {
        for t in ["", "\"", "'", "/*", "r#\"", "use a::{", "#[cfg(test)]", "\\", "b'"] {
            paths(&tokens(&lines(t)));
        }
    }
}
