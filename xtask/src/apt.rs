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
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if which("apt-get").is_none() {
        bail!("this is no Debian system (no apt-get); install what these have: {packages:?}");
    }
    let sudo = !is_root();
    if sudo && !Cmd::new("sudo").args(["-n", "true"]).quiet().succeeds() {
        bail!("only root can install packages; run: {by_hand}");
    }
    let _no_services = if sudo { None } else { NoServices::hold() };
    let apt = || {
        let c = if sudo {
            Cmd::new("sudo").args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
        } else {
            Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive")
        };
        c.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
    };
    let get = || apt().args(["install", "--no-install-recommends"]).args(packages).run();
    // The list of packages may be old or not there at all: then it is fetched once.
    if get().is_err() {
        apt().arg("update").run()?;
        get()?;
    }
    Ok(())
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
