//! Starts, does nothing, ends. Copied under another name it stands in for any program whose start is the behaviour.

fn main() {}
