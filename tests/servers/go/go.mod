module ship.test/server

go 1.19
