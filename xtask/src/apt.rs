//! Debian packages that a verb needs: installed when missing, where that is possible.

use std::path::Path;

use anyhow::{Result, bail};

use crate::sh::{Cmd, which};

/// Installs `packages`. Services that come with them are not started.
///
/// Asks nothing; fails where there is no apt-get or no right to use it, with the command that
/// somebody with the right can run.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !available() {
        bail!("this is no Debian system (no apt-get); install what these have: {packages:?}");
    }
    if !is_root() && !can_sudo() {
        let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
        bail!("only root can install packages; run: {by_hand}");
    }
    let _no_services = if is_root() { NoServices::hold() } else { None };
    let get = || apt_get().args(["install", "--no-install-recommends"]).args(packages).run();
    // The list of packages may be old or not there at all: then it is fetched once.
    if get().is_err() {
        update()?;
        get()?;
    }
    Ok(())
}

/// There is an apt-get to try.
pub(crate) fn available() -> bool {
    which("apt-get").is_some()
}

/// The version that an installation would bring, if the package lists know the package.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = Cmd::new("apt-cache").args(["policy", package]).quiet().answer()?;
    let line = policy.lines().find_map(|l| l.trim().strip_prefix("Candidate:"))?.trim();
    (line != "(none)").then(|| line.to_owned())
}

/// Refreshes the package lists.
pub(crate) fn update() -> Result<()> {
    if !is_root() && !can_sudo() {
        bail!("only root can refresh the package lists; run: apt-get update");
    }
    apt_get().arg("update").run()
}

fn apt_get() -> Cmd {
    let c = if is_root() {
        Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive")
    } else {
        Cmd::new("sudo").args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
    };
    c.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
}

fn can_sudo() -> bool {
    which("sudo").is_some() && Cmd::new("sudo").args(["-n", "true"]).quiet().succeeds()
}

fn is_root() -> bool {
    Cmd::new("id").arg("-u").quiet().read().is_ok_and(|id| id == "0")
}

/// Debian's way to say that a package's service shall not start: a policy-rc.d that exits with
/// 101. Ours is taken away again; one that is already there is left alone.
struct NoServices;

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold() -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return None;
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").ok()?;
        let guard = NoServices;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755)).ok()?;
        Some(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(POLICY);
    }
}
