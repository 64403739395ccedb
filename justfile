# Short names for what ./mymacro does; nothing here that it can't do.

default:
    @just --list

# Start the whole stack
up *options:
    ./mymacro up {{options}}

# Stop it
down:
    ./mymacro down

# Each process: pid, port, state, memory
status:
    ./mymacro status

# The two stories on the running stack
demo *options:
    ./mymacro demo {{options}}

# Draw a request as a tree
trace id:
    ./mymacro trace {{id}}

# Tests; arguments go to pytest
test *arguments:
    ./mymacro test {{arguments}}

# Faults under load, and what was lost
faults *arguments:
    ./mymacro faults {{arguments}}

# Format, lint, types, dependency rule, drift
check:
    ./mymacro check

# One benchmark of benchmarks/
bench name *arguments:
    ./mymacro bench {{name}} {{arguments}}

# Compile the locks anew
lock:
    ./mymacro lock
