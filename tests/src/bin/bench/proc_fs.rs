//! What the kernel says: of this machine, and of a process.

use std::fs;
use std::io;

/// A line of `/proc/cpuinfo`.
pub(crate) fn cpu_model() -> io::Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.trim().to_owned()))
}

/// All memory, in GiB.
pub(crate) fn memory_gib() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    Ok(kib(&text, "MemTotal:").unwrap_or(0).div_ceil(1024 * 1024))
}

/// The kernel's release.
pub(crate) fn kernel() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned())
}

/// The load of the last minute.
pub(crate) fn load() -> io::Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// Resident memory of a process, in KiB: now, and the most that it ever had.
pub(crate) fn resident_kib(pid: u32) -> io::Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let now = kib(&text, "VmRSS:").unwrap_or(0);
    Ok((now, kib(&text, "VmHWM:").unwrap_or(now)))
}

/// Processor time of a process so far, in seconds: user and system, all threads.
pub(crate) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold blanks and brackets; what follows the last bracket has neither.
    let rest = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: Vec<f64> = rest.split_ascii_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    // The unit of these two is fixed at a hundredth of a second.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_and_machine() {
        let pid = std::process::id();
        let (now, most) = super::resident_kib(pid).unwrap();
        assert!(now > 0 && most >= now);
        assert!(super::cpu_seconds(pid).unwrap() >= 0.0);
        assert!(super::memory_gib().unwrap() > 0 && !super::load().unwrap().is_empty());
    }
}
