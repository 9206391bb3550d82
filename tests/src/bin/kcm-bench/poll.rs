//! A thin level-triggered epoll: a token is an index into the caller's connections.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use rustix::event::epoll;
use rustix::io::Errno;

pub(crate) struct Poll {
    fd: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poll { fd, events: Vec::with_capacity(128) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: usize, what: epoll::EventFlags) -> Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token as u64), what)?)
    }

    pub(crate) fn remove(&self, fd: impl AsFd) -> Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits until something is ready; the tokens of what is.
    pub(crate) fn wait(&mut self) -> Result<Vec<usize>> {
        loop {
            self.events.clear();
            match epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), None) {
                Ok(_) => return Ok(self.events.iter().map(|e| e.data.u64() as usize).collect()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
