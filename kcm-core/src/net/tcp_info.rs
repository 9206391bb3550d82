//! What the kernel knows of a TCP connection (TCP_INFO).
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// A state of the TCP state machine (RFC 9293, section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TcpState {
    /// Data flows both ways.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to.
    SynRecv,
    /// We ended our sending side, and the peer has not acknowledged that.
    FinWait1,
    /// We ended our sending side.
    FinWait2,
    /// Both sides ended; old segments are waited for.
    TimeWait,
    /// Not connected, or reset.
    Close,
    /// The peer ended its sending side.
    CloseWait,
    /// Both sides ended, our end is not acknowledged.
    LastAck,
    /// Accepts connections.
    Listen,
    /// Both sides ended at once.
    Closing,
    /// None that this version knows.
    Unknown(u8),
}

impl TcpState {
    fn from_raw(state: u8) -> Self {
        match state {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 | 12 => TcpState::SynRecv,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 => TcpState::Close,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            other => TcpState::Unknown(other),
        }
    }
}

/// The kernel's view of a TCP connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// Where the connection stands.
    pub state: TcpState,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_var: Duration,
    /// Largest segment sent, in bytes.
    pub snd_mss: u32,
    /// Largest segment received so far, in bytes.
    pub rcv_mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Segments taken for lost.
    pub lost: u32,
    /// Segments retransmitted, ever.
    pub total_retrans: u32,
    /// Consecutive retransmissions of the segment that is due now.
    pub retransmits: u8,
    /// Congestion window, in segments.
    pub snd_cwnd: u32,
    /// Receive window's room that the kernel aims at, in bytes.
    pub rcv_space: u32,
    /// Bytes received in order, ever, the end of the stream counting as one.
    pub bytes_received: u64,
    /// Since the last data was sent.
    pub last_data_sent: Duration,
    /// Since the last data was received.
    pub last_data_recv: Duration,
}

/// The kernel's structure as far as it is looked at: the C library's may end earlier.
#[repr(C)]
union Raw {
    info: libc::tcp_info,
    words: [u64; 32],
}

/// Where in it the bytes received are counted, in words of 8 bytes.
const BYTES_RECEIVED: usize = 16;

/// Asks the kernel. EOPNOTSUPP (or another errno) for what is not a TCP socket.
pub(super) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<Raw>::zeroed();
    let mut len = size_of::<Raw>() as libc::socklen_t;
    // SAFETY: `info` and `len` are valid for writes, `len` says how many bytes there are, and
    // the kernel writes at most that many. `fd` is borrowed, so it is open.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and zero is a valid value of each of its integer fields; an older
    // kernel that writes fewer bytes leaves the rest zero.
    let raw = unsafe { info.assume_init() };
    // SAFETY: any bytes are valid for both: integers.
    let (info, words) = unsafe { (raw.info, raw.words) };
    let micros = |us: u32| Duration::from_micros(u64::from(us));
    let millis = |ms: u32| Duration::from_millis(u64::from(ms));
    Ok(TcpInfo {
        state: TcpState::from_raw(info.tcpi_state),
        rtt: micros(info.tcpi_rtt),
        rtt_var: micros(info.tcpi_rttvar),
        snd_mss: info.tcpi_snd_mss,
        rcv_mss: info.tcpi_rcv_mss,
        unacked: info.tcpi_unacked,
        lost: info.tcpi_lost,
        total_retrans: info.tcpi_total_retrans,
        retransmits: info.tcpi_retransmits,
        snd_cwnd: info.tcpi_snd_cwnd,
        rcv_space: info.tcpi_rcv_space,
        bytes_received: words[BYTES_RECEIVED],
        last_data_sent: millis(info.tcpi_last_data_sent),
        last_data_recv: millis(info.tcpi_last_data_recv),
    })
}

#[cfg(test)]
mod tests {
    use std::{net, os::fd::AsFd};

    use super::*;

    #[test]
    fn bytes_are_counted_and_so_is_the_end() {
        use std::io::Write;
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let received = || tcp_info(server.as_fd()).unwrap().bytes_received;
        client.write_all(b"five!").unwrap();
        assert_eq!(received(), 5);
        drop(client);
        assert_eq!(received(), 6);
    }

    #[test]
    fn states_are_told_apart_and_other_sockets_refused() {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = net::TcpStream::connect(addr).unwrap();
        let (server, _) = listener.accept().unwrap();
        let state = |fd: BorrowedFd<'_>| tcp_info(fd).unwrap().state;
        assert_eq!(state(listener.as_fd()), TcpState::Listen);
        assert_eq!(state(client.as_fd()), TcpState::Established);
        drop(server);
        // The peer's FIN is in the kernel before close returns, on loopback.
        assert_eq!(state(client.as_fd()), TcpState::CloseWait);
        let udp = net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(tcp_info(udp.as_fd()).is_err());
    }
}
