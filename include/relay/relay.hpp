// relay, all of it, in reading order. For users: nothing in the library includes this file.
#pragma once

// What everything stands on.
#include <relay/core/require.hpp>
#include <relay/core/random.hpp>
#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>

// What is to be learned. No tensor is known here.
#include <relay/task/vocabulary.hpp>
#include <relay/task/example.hpp>
