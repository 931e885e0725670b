//! Wire format between the kernel programs and the agent.
#![no_std]
