//! What `nvidia-smi` says of the first card and its processes at one moment.

use std::process::Command;

/// Its words, in the agent's units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Smi {
    /// `GPU-…`
    pub uuid: String,
    /// Bytes.
    pub mem_used: Option<f64>,
    /// Percent.
    pub util: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Degrees Celsius.
    pub temperature: Option<f64>,
    /// Pid of each process that computes on it, and its memory in bytes.
    pub processes: Vec<(u32, Option<f64>)>,
}

const MIB: f64 = 1_048_576.0;

/// Asks it.
pub fn ask() -> Result<Smi, String> {
    let card = query("--query-gpu=uuid,memory.used,utilization.gpu,power.draw,temperature.gpu")?;
    let processes = query("--query-compute-apps=pid,used_memory,gpu_uuid")?;
    parse(&card, &processes)
}

fn query(what: &str) -> Result<String, String> {
    let asked = Command::new("nvidia-smi")
        .args([what, "--format=csv,noheader,nounits"])
        .output()
        .map_err(|error| format!("nvidia-smi: {error}"))?;
    if !asked.status.success() {
        return Err(format!("nvidia-smi {what} ended with {}", asked.status));
    }
    Ok(String::from_utf8_lossy(&asked.stdout).into_owned())
}

fn parse(card: &str, processes: &str) -> Result<Smi, String> {
    let line = card.lines().next().unwrap_or_default();
    let words: Vec<&str> = line.split(',').map(str::trim).collect();
    let [uuid, memory, util, power, temperature] = words[..] else {
        return Err(format!("nvidia-smi says {line:?} of the card"));
    };
    // `[N/A]` where the card does not tell.
    let number = |text: &str| text.parse::<f64>().ok();
    let own = processes.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(',').map(str::trim).collect();
        match words[..] {
            [pid, memory, on] if on == uuid => {
                Some((pid.parse().ok()?, number(memory).map(|mib| mib * MIB)))
            }
            _ => None,
        }
    });
    Ok(Smi {
        uuid: uuid.to_owned(),
        mem_used: number(memory).map(|mib| mib * MIB),
        util: number(util),
        power: number(power),
        temperature: number(temperature),
        processes: own.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_tables_are_read() {
        let read = parse(
            "GPU-a, 1550, 100, 412.33, 51\nGPU-b, 4, 0, 70.10, 30\n",
            "77, 1536, GPU-a\n78, [N/A], GPU-a\n79, 3, GPU-b\n",
        );
        let expected = Smi {
            uuid: "GPU-a".into(),
            mem_used: Some(1550.0 * MIB),
            util: Some(100.0),
            power: Some(412.33),
            temperature: Some(51.0),
            processes: vec![(77, Some(1536.0 * MIB)), (78, None)],
        };
        assert_eq!(read, Ok(expected));
        let without = parse("GPU-a, 1550, [N/A], [N/A], 51\n", "").expect("it is read");
        assert_eq!((without.util, without.power), (None, None));
        assert!(parse("No devices were found\n", "").is_err());
        assert!(parse("", "").is_err());
    }
}
