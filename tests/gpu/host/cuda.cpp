#include "gpu/training.hpp"

#include <relay/backend/cpu.hpp>

namespace training {

Trained train_on_cpu() { return train<relay::Cpu<float>>(); }
std::vector<Text> write_on_cpu() { return write<relay::Cpu<float>>(); }

}  // namespace training
