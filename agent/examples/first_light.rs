//! Prints what the sensor sees, for a look at a machine without rules or alerts: `cargo run --example first_light`.
//! Opens of the paths that start like an argument are reported too.

use std::process::exit;
use std::time::Duration;

use saker::decode::decode;
use saker::source::{Kind, Sensor, SensorConfig};

fn main() {
    let mut config = SensorConfig::default();
    let prefixes: Vec<Vec<u8>> = std::env::args().skip(1).map(String::into_bytes).collect();
    if !prefixes.is_empty() {
        config.kinds.insert(Kind::Open);
        config.open_prefixes = prefixes;
    }
    let mut sensor = match Sensor::load(&config) {
        Ok(sensor) => sensor,
        Err(error) => {
            eprintln!("{error}");
            exit(3);
        }
    };
    for status in sensor.status() {
        eprintln!("{status:?}");
    }
    loop {
        if let Err(error) = sensor.poll(Duration::from_secs(1)) {
            eprintln!("{error}");
            exit(4);
        }
        sensor.drain(1000, &mut |record| match decode(record) {
            Ok(event) => println!("{event:?}"),
            Err(error) => println!("{error}"),
        });
    }
}
