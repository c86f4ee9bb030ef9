module meshless.dev/sdk/go

go 1.21
