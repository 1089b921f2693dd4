module github.com/arcanesys/nixfleet

go 1.26
