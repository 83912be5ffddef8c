//! Self-test suites: ordinary functions over `Mm<P>`, run by the kernel at
//! every boot and by the host as tests.
#![no_std]
