module github.com/arcanesys/nixfleet

go 1.26

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/google/go-cmp v0.7.0
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.1.0
)

require github.com/inconshreveable/mousetrap v1.1.0 // indirect
