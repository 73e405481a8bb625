# Two commands: `make up` and `make test`. Both install what is missing, build, and run.

# What follows `make up` on portolan's command line, as in: make up ARGS='--nodes 3'
ARGS ?=

.PHONY: help up test bench

help:
	@echo 'make up [ARGS=…]   build and start the lab; Ctrl-C stops it'
	@echo 'make test          everything that CI runs'
	@echo 'make bench         measure cold start, memory, and Service to first answer'

up:
	@scripts/tools cargo cc
	cargo build --release --locked --package portolan
	@exec target/release/portolan up $(ARGS)

test:
	@scripts/tools cargo cc ip iptables nft curl kubectl
	@scripts/test

bench:
	@scripts/tools cargo cc curl
	cargo xtask bench
