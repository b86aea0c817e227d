// Functions of the maths library that differ by processor there, in plain IEEE operations: the same
// bits everywhere.
#pragma once

namespace orthomerge {

// e^x, within 2 units in the last place; 0 below about -745, infinite above about 709.
double Exp(double x);

// Within 8 units in the last place.
double Tanh(double x);

}  // namespace orthomerge
