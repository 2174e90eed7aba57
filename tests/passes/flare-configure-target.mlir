// RUN: flare-opt %s -verify-diagnostics --flare-configure=target=sm_75

// expected-error @+1 {{unknown target 'sm_75'; known are host, sm_80, sm_90a, sm_100a}}
module {
}
