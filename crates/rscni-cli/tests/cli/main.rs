//! The binary as people and runtimes call it. Plugins are shell scripts; nothing needs the kernel's network.

mod cnitool;
mod install;
mod network;
mod world;
