//! Running commands: each is printed as it would be typed, then run; a failure names it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs this, so that a chosen toolchain stays chosen.
pub(crate) fn cargo() -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command to be printed and run, in the workspace's root unless told otherwise.
pub(crate) struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    removed: Vec<OsString>,
    dir: PathBuf,
    quiet: bool,
}

impl Cmd {
    /// `program` is looked up in PATH.
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Cmd {
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            removed: Vec::new(),
            dir: root(),
            quiet: false,
        }
    }

    /// Appends one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Appends arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable for the command; it is printed in front of it.
    pub(crate) fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes an environment variable away from the command.
    pub(crate) fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.removed.push(key.as_ref().to_owned());
        self
    }

    /// Runs in `dir` instead of the workspace's root.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Does not print the command: for questions whose answer alone matters.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The command as it would be typed.
    pub(crate) fn line(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        for (k, v) in &self.envs {
            words.push(format!("{}={}", k.display(), quoted(v)));
        }
        let program = Path::new(&self.program);
        // The toolchain's cargo is a long path that says nothing to the reader.
        if program.file_name() == Some(OsStr::new("cargo")) && program.is_absolute() {
            words.push("cargo".into());
        } else {
            words.push(quoted(&self.program));
        }
        words.extend(self.args.iter().map(|a| quoted(a)));
        words.join(" ")
    }

    fn command(&self) -> Command {
        if !self.quiet {
            eprintln!("$ {}", self.line());
        }
        let mut c = Command::new(&self.program);
        c.args(&self.args).current_dir(&self.dir);
        for k in &self.removed {
            c.env_remove(k);
        }
        c.envs(self.envs.iter().map(|(k, v)| (k, v)));
        c
    }

    /// Runs to the end with the caller's own output; an exit code other than 0 is an error.
    pub(crate) fn run(self) -> Result<()> {
        let status = self
            .command()
            .status()
            .with_context(|| format!("could not start `{}`", self.line()))?;
        if !status.success() {
            bail!("`{}` failed ({status})", self.line());
        }
        Ok(())
    }

    /// Becomes the command: Ctrl-C and everything else then is its own affair.
    pub(crate) fn exec(self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        Err(self.command().exec()).with_context(|| format!("could not start `{}`", self.line()))
    }

    /// Runs to the end and returns what it wrote to standard output, without trailing blanks.
    pub(crate) fn read(self) -> Result<String> {
        let out = self
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("could not start `{}`", self.line()))?;
        if !out.status.success() {
            bail!("`{}` failed ({})", self.line(), out.status);
        }
        let text = String::from_utf8(out.stdout)
            .with_context(|| format!("`{}` printed no UTF-8", self.line()))?;
        Ok(text.trim_end().to_owned())
    }

    /// What it wrote to standard output, without trailing blanks, if it starts and exits
    /// with 0: for questions whose failure is an answer too. Complaints are thrown away.
    pub(crate) fn answer(self) -> Option<String> {
        let out = self.command().stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim_end().to_owned())
    }

    /// True if it starts and exits with 0; its output is thrown away.
    pub(crate) fn succeeds(self) -> bool {
        self.command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }
}

fn quoted(word: &OsStr) -> String {
    let s = word.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !s.is_empty() && s.chars().all(plain) {
        s
    } else {
        format!("'{}'", s.replace('\'', r"'\''"))
    }
}

/// The first `name` in PATH that is a file.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_as_it_would_be_typed() {
        let c = Cmd::new("/x/bin/cargo").args(["test", "-p", "a b"]).env("K", "it's");
        assert_eq!(c.line(), r"K='it'\''s' cargo test -p 'a b'");
    }

    #[test]
    fn a_failing_command_is_named_in_the_error() {
        let e = Cmd::new("false").quiet().run().unwrap_err().to_string();
        assert!(e.contains("`false` failed"), "{e}");
        let e = Cmd::new("no-such-program-here").quiet().run().unwrap_err().to_string();
        assert!(e.contains("could not start"), "{e}");
    }
}
