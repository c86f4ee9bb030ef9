module meshless.dev/examples/go

go 1.21

require meshless.dev/sdk/go v0.0.0

replace meshless.dev/sdk/go => ../../sdk/go
