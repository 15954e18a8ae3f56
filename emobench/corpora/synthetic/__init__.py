"""The synthetic corpus: RAVDESS's design, spoken by a source-filter synthesiser; made on this machine.

It exists so that everything else can be tried where no recorded corpus is at hand. Nothing in it was recorded: pulses
of a glottal source with jitter, shimmer and aspiration pass a tract of formants, syllable by syllable, then a room and
a microphone. It is calibrated so that models land near where they do on real acted speech, and for the same reason:
what tells emotions apart (pitch, loudness, voice quality, tempo) also tells people apart, and each person expresses
an emotion in their own way, so that a model that has heard the speaker has much less to guess.

- An emotion is a row of `EMOTIONS`: a subdued and an aroused member of its family, as deviations from neutral speech.
- A speaker (`Speaker`) has a body, a manner of pronouncing, a room and a microphone, and an own *style*: where between
  the two members they place each emotion, how much of each correlate they use, and some habits of their own.
- A clip adds what no one repeats exactly: a few per cent of everything.

The signal is computed by overlap-add of short frames, each filtered in the frequency domain, so that no loop runs over
samples. All randomness of a clip derives from the seed and the clip's name by hashing: the order of clips, the number
of workers and the size of the design do not matter.

References
----------
Banse & Scherer (1996), Acoustic profiles in vocal emotion expression, J. Pers. Soc. Psychol. 70(3), 614-636.
Juslin & Laukka (2003), Communication of emotions in vocal expression and music performance, Psychol. Bull. 129(5).
Tartter (1980), Happy talk: perceptual and acoustic effects of smiling on speech, Percept. Psychophys. 27(1).
Klatt (1980), Software for a cascade/parallel formant synthesizer, J. Acoust. Soc. Am. 67(3), 971-995.
Doval, d'Alessandro & Henrich (2006), The spectrum of glottal flow models, Acta Acustica 92(6), 1026-1046.
Hillenbrand et al. (1995), Acoustic characteristics of American English vowels, J. Acoust. Soc. Am. 97(5).
Karjalainen & Järveläinen (2007), Reverberation modeling using velvet noise, AES 30th International Conference.
Livingstone & Russo (2018), The Ryerson audio-visual database of emotional speech and song, PLoS ONE 13(5).
"""
