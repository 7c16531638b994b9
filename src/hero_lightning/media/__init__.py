"""EncoderInput material of a clip: pictures, sound, action units, and which times are looked at."""
